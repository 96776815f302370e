//! Small peers that make traffic in a namespace and count what comes of it. Every wait has a deadline.

pub mod bulk;
pub mod flow;
pub mod ping;
pub mod responder;
pub mod segmented;
pub mod sessions;
pub mod storm;
