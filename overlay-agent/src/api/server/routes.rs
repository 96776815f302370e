//! Which request does what: the paths that [`types`](crate::api::types) names, each one operation of the [`Service`].

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    extract::{Query, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{delete, get, post, put},
};
use hyper_util::service::TowerToHyperService;

use super::reply::{Body, Failure, Params};
use crate::{
    api::types::{
        AddExternal, AttachRequest, AttachResult, ChangeLabels, ChangeLimits, CreateNetwork, DRY_RUN,
        DetachOwned, DetachRequest, DetachResult, DropView, EndpointView, MapDump, MapView, NetworkView,
        NewRule, NodeDetail, NodeView, PolicyView, PublicationView, RemoveNode, RemovedNode, STALE_HEADER,
        Status,
    },
    metrics::Form,
    model::{Name, Publication, RuleId},
    service::Service,
    store::transfer::Exported,
    trace::{TraceRequest, TraceView},
    verify::Verification,
};

type Agent = Arc<Service>;
type Answer<T> = Result<Json<T>, Failure>;

/// The API.
pub(super) fn router(service: Arc<Service>) -> Router {
    let rehearse = middleware::from_fn_with_state(Arc::clone(&service), rehearse);
    let stale = middleware::from_fn_with_state(Arc::clone(&service), mark_stale);
    routes().layer(rehearse).layer(stale).with_state(service)
}

fn routes() -> Router<Agent> {
    Router::new()
        .route("/v1/networks", get(networks).post(create_network).put(ensure_network))
        .route("/v1/networks/{network}", get(network).delete(remove_network))
        .route("/v1/networks/{network}/endpoints", post(attach))
        .route("/v1/networks/{network}/endpoints/{endpoint}/labels", post(change_labels))
        .route("/v1/networks/{network}/endpoints/{endpoint}/limits", post(change_limits))
        .route("/v1/networks/{network}/endpoints/{endpoint}/published", post(publish).delete(unpublish))
        .route("/v1/networks/{network}/detach", post(detach))
        .route("/v1/detach", post(detach_owned))
        .route("/v1/networks/{network}/external", post(add_external))
        .route("/v1/networks/{network}/external/{name}", delete(remove_external))
        .route("/v1/external", get(externals))
        .route("/v1/endpoints", get(endpoints))
        .route("/v1/endpoints/{endpoint}", get(endpoint))
        .route("/v1/nodes", get(nodes))
        .route("/v1/nodes/{node}", get(node).delete(remove_node))
        .route("/v1/nodes/{node}/drain", put(drain).delete(undrain))
        .route("/v1/published", get(publications))
        .route("/v1/policies", get(policies))
        .route("/v1/policies/{a}/{b}", put(allow).delete(deny))
        .route("/v1/policies/{a}/{b}/rules", post(add_rule))
        .route("/v1/policies/{a}/{b}/enforce", post(enforce))
        .route("/v1/rules/{id}", delete(remove_rule))
        .route("/v1/status", get(status))
        .route("/v1/ready", get(ready))
        .route("/v1/store/export", get(export))
        .route("/v1/verify", get(verify).post(repair))
        .route("/v1/trace", post(trace))
        .route("/v1/drops", get(drops))
        .route("/v1/metrics", get(metrics))
        .route("/v1/maps", get(maps))
        .route("/v1/maps/{map}", get(dump_map))
}

/// Answers a request with `?dry_run=true` by the same operations on a rehearsal.
async fn rehearse(
    State(service): State<Agent>,
    mut request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let options = Query::<BTreeMap<String, bool>>::try_from_uri(request.uri());
    let asks_for = options.map_err(|e| Failure::invalid(e.body_text()))?;
    if asks_for.get(DRY_RUN) != Some(&true) {
        return Ok(next.run(request).await);
    }
    // What the way to here has noted of the path would be noted again.
    request.extensions_mut().clear();
    let rehearsing = TowerToHyperService::new(routes().with_state(Arc::new(service.rehearsal())));
    let answered = hyper::service::Service::call(&rehearsing, request).await;
    Ok(answered.unwrap_or_else(|never| match never {}))
}

/// Marks what was asked for as stale if it is; the body stays what it is, for programs.
async fn mark_stale(State(service): State<Agent>, request: Request, next: Next) -> Response {
    let reads = request.method().is_safe();
    let mut response = next.run(request).await;
    if let Some(stale) = service.stale().filter(|_| reads) {
        let seconds = stale.since.elapsed().unwrap_or_default().as_secs();
        let text: String = stale.reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let value = HeaderValue::from_bytes(format!("for {seconds} s: {text}").as_bytes());
        response.headers_mut().extend(value.ok().map(|value| (HeaderName::from_static(STALE_HEADER), value)));
    }
    response
}

async fn networks(State(service): State<Agent>) -> Answer<Vec<NetworkView>> {
    Ok(Json(service.networks().await?))
}

async fn create_network(
    State(service): State<Agent>,
    Body(request): Body<CreateNetwork>,
) -> Answer<NetworkView> {
    Ok(Json(service.create_network(request).await?))
}

async fn ensure_network(
    State(service): State<Agent>,
    Body(request): Body<CreateNetwork>,
) -> Answer<NetworkView> {
    Ok(Json(service.ensure_network(request).await?))
}

async fn network(State(service): State<Agent>, Params(network): Params<Name>) -> Answer<NetworkView> {
    Ok(Json(service.network(&network).await?))
}

async fn remove_network(State(service): State<Agent>, Params(network): Params<Name>) -> Answer<NetworkView> {
    Ok(Json(service.remove_network(&network).await?))
}

async fn attach(
    State(service): State<Agent>,
    Params(network): Params<Name>,
    Body(request): Body<AttachRequest>,
) -> Answer<AttachResult> {
    Ok(Json(service.attach(&network, request).await?))
}

async fn detach(
    State(service): State<Agent>,
    Params(network): Params<Name>,
    Body(request): Body<DetachRequest>,
) -> Answer<DetachResult> {
    Ok(Json(service.detach(&network, request).await?))
}

async fn detach_owned(
    State(service): State<Agent>,
    Body(request): Body<DetachOwned>,
) -> Answer<DetachResult> {
    Ok(Json(service.detach_owned(request).await?))
}

async fn add_external(
    State(service): State<Agent>,
    Params(network): Params<Name>,
    Body(request): Body<AddExternal>,
) -> Answer<EndpointView> {
    Ok(Json(service.add_external(&network, request).await?))
}

async fn remove_external(
    State(service): State<Agent>,
    Params((network, name)): Params<(Name, Name)>,
) -> Answer<EndpointView> {
    Ok(Json(service.remove_external(&network, &name).await?))
}

async fn externals(State(service): State<Agent>) -> Answer<Vec<EndpointView>> {
    Ok(Json(service.externals().await?))
}

async fn endpoints(State(service): State<Agent>) -> Answer<Vec<EndpointView>> {
    Ok(Json(service.endpoints().await?))
}

async fn endpoint(State(service): State<Agent>, Params(endpoint): Params<Name>) -> Answer<Vec<EndpointView>> {
    Ok(Json(service.endpoint(endpoint.as_str()).await?))
}

async fn nodes(State(service): State<Agent>) -> Answer<Vec<NodeView>> {
    Ok(Json(service.nodes().await?))
}

async fn node(State(service): State<Agent>, Params(node): Params<Name>) -> Answer<NodeDetail> {
    Ok(Json(service.node(&node).await?))
}

async fn remove_node(
    State(service): State<Agent>,
    Params(node): Params<Name>,
    Body(request): Body<RemoveNode>,
) -> Answer<RemovedNode> {
    Ok(Json(service.remove_node(&node, request.force).await?))
}

async fn drain(State(service): State<Agent>, Params(node): Params<Name>) -> Answer<NodeView> {
    Ok(Json(service.drain(&node, true).await?))
}

async fn undrain(State(service): State<Agent>, Params(node): Params<Name>) -> Answer<NodeView> {
    Ok(Json(service.drain(&node, false).await?))
}

async fn policies(State(service): State<Agent>) -> Answer<Vec<PolicyView>> {
    Ok(Json(service.policies().await?))
}

async fn allow(
    State(service): State<Agent>,
    Params((a, b)): Params<(Name, Name)>,
) -> Answer<Vec<PolicyView>> {
    Ok(Json(service.allow(&a, &b).await?))
}

async fn deny(
    State(service): State<Agent>,
    Params((a, b)): Params<(Name, Name)>,
) -> Result<StatusCode, Failure> {
    service.deny(&a, &b).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn add_rule(
    State(service): State<Agent>,
    Params((from, to)): Params<(Name, Name)>,
    Body(rule): Body<NewRule>,
) -> Answer<PolicyView> {
    Ok(Json(service.add_rule(&from, &to, rule).await?))
}

async fn remove_rule(
    State(service): State<Agent>,
    Params(id): Params<RuleId>,
) -> Result<StatusCode, Failure> {
    service.remove_rule(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn enforce(
    State(service): State<Agent>,
    Params((a, b)): Params<(Name, Name)>,
) -> Answer<Vec<PolicyView>> {
    Ok(Json(service.enforce(&a, &b).await?))
}

async fn change_labels(
    State(service): State<Agent>,
    Params((network, endpoint)): Params<(Name, Name)>,
    Body(change): Body<ChangeLabels>,
) -> Answer<EndpointView> {
    Ok(Json(service.change_labels(&network, &endpoint, change).await?))
}

async fn change_limits(
    State(service): State<Agent>,
    Params((network, endpoint)): Params<(Name, Name)>,
    Body(change): Body<ChangeLimits>,
) -> Answer<EndpointView> {
    Ok(Json(service.change_limits(&network, &endpoint, change).await?))
}

async fn publications(State(service): State<Agent>) -> Answer<Vec<PublicationView>> {
    Ok(Json(service.publications().await?))
}

async fn publish(
    State(service): State<Agent>,
    Params((network, endpoint)): Params<(Name, Name)>,
    Body(publication): Body<Publication>,
) -> Answer<Vec<PublicationView>> {
    Ok(Json(service.publish(&network, &endpoint, publication).await?))
}

async fn unpublish(
    State(service): State<Agent>,
    Params((network, endpoint)): Params<(Name, Name)>,
    Body(publication): Body<Publication>,
) -> Answer<Vec<PublicationView>> {
    Ok(Json(service.unpublish(&network, &endpoint, publication).await?))
}

async fn status(State(service): State<Agent>) -> Answer<Status> {
    Ok(Json(service.status().await?))
}

async fn ready(State(service): State<Agent>) -> Answer<Status> {
    Ok(Json(service.ready().await?))
}

async fn export(State(service): State<Agent>) -> Answer<Exported> {
    Ok(Json(service.export().await?))
}

async fn verify(State(service): State<Agent>) -> Answer<Verification> {
    Ok(Json(service.verify().await?))
}

async fn repair(State(service): State<Agent>) -> Answer<Verification> {
    Ok(Json(service.repair().await?))
}

async fn trace(State(service): State<Agent>, Body(request): Body<TraceRequest>) -> Answer<TraceView> {
    Ok(Json(service.trace(request).await?))
}

async fn drops(State(service): State<Agent>) -> Answer<Vec<DropView>> {
    Ok(Json(service.drops().await?))
}

/// Text, in the form that the client asks for.
pub(super) async fn metrics(State(service): State<Agent>, headers: HeaderMap) -> Result<Response, Failure> {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let form = Form::accepted(accept.unwrap_or_default());
    let text = service.metrics().await?.text(form).map_err(|e| Failure::internal(e.to_string()))?;
    Ok(([(header::CONTENT_TYPE, form.media_type())], text).into_response())
}

async fn maps(State(service): State<Agent>) -> Answer<Vec<MapView>> {
    Ok(Json(service.maps().await?))
}

async fn dump_map(State(service): State<Agent>, Params(map): Params<Name>) -> Answer<MapDump> {
    Ok(Json(service.dump_map(map.as_str()).await?))
}
