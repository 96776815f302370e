//! What users may say of a network with `docker network create -o KEY=VALUE`, and with `--ipam-opt`.

use overlay_common::vni::Vni;
use serde_json::{Map, Value};

use super::protocol::{ENABLE_IPV6, GENERIC, INTERNAL};
use crate::model::Name;

/// The network's name in the cluster.
pub const NAME: &str = "overlay.name";
/// Its VXLAN identifier.
const VNI: &str = "overlay.vni";
/// Its largest IP packet.
const MTU: &str = "overlay.mtu";
/// The same, as Docker's own drivers call it.
const DOCKER_MTU: &str = "com.docker.network.driver.mtu";
/// Whether broadcast and multicast reach all members.
const MULTICAST: &str = "overlay.multicast";
/// Networks that it may talk with.
const ALLOW: &str = "overlay.allow";
/// The agent itself makes a network known to the engine that was asked for on another host.
pub const COPY: &str = "overlay.copy";

/// A network's options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Its name in the cluster.
    pub name: Option<Name>,
    /// Its VXLAN identifier.
    pub vni: Option<Vni>,
    /// Its largest IP packet, in bytes.
    pub mtu: Option<u16>,
    /// Broadcast and multicast reach all members.
    pub multicast: bool,
    /// Networks that it may talk with.
    pub allow: Vec<Name>,
    /// No way out.
    pub internal: bool,
    /// IPv6 was asked for.
    pub ipv6: bool,
    /// Nobody asked for it on this host.
    pub is_copy: bool,
}

impl Options {
    /// What the options of a `CreateNetwork` say.
    ///
    /// # Errors
    /// A sentence, if any of it is not known or makes no sense.
    pub fn parse(options: &Map<String, Value>) -> Result<Self, String> {
        let flag = |key| options.get(key).and_then(Value::as_bool).unwrap_or_default();
        let mut parsed = Self { internal: flag(INTERNAL), ipv6: flag(ENABLE_IPV6), ..Self::default() };
        let given = options.get(GENERIC).and_then(Value::as_object);
        for (key, value) in given.into_iter().flatten() {
            match value {
                Value::String(value) => parsed.set(key, value)?,
                // What the engine itself adds repeats what stands beside.
                _ if [INTERNAL, ENABLE_IPV6].contains(&key.as_str()) => parsed.set_flag(key, value),
                other => return Err(format!("option {key}={other} is no text")),
            }
        }
        Ok(parsed)
    }

    fn set_flag(&mut self, key: &str, value: &Value) {
        let value = value.as_bool().unwrap_or_default();
        if key == INTERNAL {
            self.internal |= value;
        } else {
            self.ipv6 |= value;
        }
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let wrong = |reason: String| format!("option {key}={value}: {reason}");
        match key {
            NAME => self.name = Some(parse_name(value).map_err(wrong)?),
            VNI => self.vni = Some(parse_vni(value).map_err(wrong)?),
            MTU | DOCKER_MTU => {
                self.mtu = Some(
                    value.parse().map_err(|_| wrong("an MTU is a number of bytes such as 1400".into()))?,
                );
            }
            ALLOW => {
                let names = value.split(',').map(parse_name).collect::<Result<_, _>>();
                self.allow = names.map_err(wrong)?;
            }
            MULTICAST => {
                self.multicast = value.parse().map_err(|_| wrong("it is true or false".into()))?;
            }
            COPY => self.is_copy = value == "true",
            _ => {
                return Err(format!(
                    "this driver has no option {key}: it has {NAME}=NAME, {VNI}=NUMBER, {MTU}=BYTES, {MULTICAST}=true and {ALLOW}=NETWORK,…"
                ));
            }
        }
        Ok(())
    }
}

/// A name, or the sentence that it is none.
pub fn parse_name(text: &str) -> Result<Name, String> {
    text.parse().map_err(|e: crate::model::InvalidName| e.to_string())
}

fn parse_vni(text: &str) -> Result<Vni, String> {
    let number = text.parse().ok().and_then(Vni::new);
    number.ok_or_else(|| format!("a VNI is a number from 1 to {}", Vni::MAX))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn parse(options: &Value) -> Result<Options, String> {
        Options::parse(options.as_object().unwrap())
    }

    #[test]
    fn what_docker_sends_is_understood() {
        let options = json!({
            "com.docker.network.enable_ipv6": false,
            "com.docker.network.internal": true,
            "com.docker.network.generic": {
                "overlay.name": "blue", "overlay.vni": "300", "com.docker.network.driver.mtu": "1400",
                "overlay.allow": "red,green",
            },
        });
        let expected = Options {
            name: Some("blue".parse().unwrap()),
            vni: Vni::new(300),
            mtu: Some(1400),
            allow: ["red", "green"].map(|name| name.parse().unwrap()).into(),
            internal: true,
            ..Options::default()
        };
        assert_eq!(parse(&options).unwrap(), expected);
        for nothing in [json!({}), json!({"com.docker.network.generic": null})] {
            assert_eq!(parse(&nothing).unwrap(), Options::default());
        }
    }

    #[rstest]
    #[case("overlay.vni", "0", "from 1 to")]
    #[case("overlay.vni", "x", "from 1 to")]
    #[case("overlay.mtu", "70000", "number of bytes")]
    #[case("overlay.multicast", "yes", "true or false")]
    #[case("overlay.name", "a/b", "is no name")]
    #[case("overlay.allow", "red,", "is no name")]
    #[case("overlay.vnid", "300", "overlay.vni=NUMBER")]
    fn what_makes_no_sense_is_refused_with_what_would(
        #[case] key: &str,
        #[case] value: &str,
        #[case] part: &str,
    ) {
        let mut generic = Map::new();
        generic.insert(key.to_owned(), value.into());
        let refusal = parse(&json!({"com.docker.network.generic": generic})).unwrap_err();
        assert!(refusal.contains(part) && refusal.contains(key), "{refusal}");
    }
}
