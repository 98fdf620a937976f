//! Devices that execute plan steps, and communicators between ranks.

pub mod comm;
pub mod cpu;
pub mod launch;
pub mod machine;
