//! Devices that execute plan steps, and the reference implementation they are compared with.

pub mod cpu;
