//! Plan to training: data, and what will run it.

pub mod data;
