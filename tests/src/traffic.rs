//! Small peers that make traffic in a namespace and count what comes of it. Every wait has a deadline.

pub mod asker;
pub mod bulk;
pub mod flow;
pub mod name_server;
pub mod ping;
pub mod responder;
pub mod segmented;
mod service;
pub mod sessions;
pub mod storm;
