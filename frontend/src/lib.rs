//! From the YAML text a user has to a checked [`config::Config`], and from that to a module.

pub mod block;
pub mod config;
pub mod inputs;
pub mod model;
pub mod run;
