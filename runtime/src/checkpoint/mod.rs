//! Weights and training state on disk: safetensors under Hugging Face names, in MindFormers' directory layout.
//!
//! ```text
//! <output_dir>/checkpoint/
//!   latest_checkpointed_iteration.txt          written last: the commit point
//!   iteration_00000100/
//!     <prefix>-model-0000000-0000001.safetensors   weights
//!     model.safetensors                            the same file under the name that Hugging Face looks for
//!     model-00001-of-00007.safetensors, …              instead of both when they are large, with their index
//!     config.json                                  the model's Hugging Face configuration
//!     <prefix>-opt-0000000-0000001.safetensors     adam_m.*, adam_v.*
//!     common.json                                  steps and samples so far
//! ```

//!
//! What tensors are called and how they are laid out is data ([`athanor_ir::names`]). [`mapping`] turns it into relations of
//! elements ([`strided`]), through which everything is read and written a piece at a time.

pub mod convert;
pub mod differences;
pub mod elements;
pub mod file;
pub mod load;
pub mod mapping;
pub mod resume;
pub mod save;
pub mod strided;
pub mod tensors;
pub mod write;

pub use load::load_weights;
pub use resume::{Resume, State};
pub use save::Saver;

/// Name of the file that holds the newest finished iteration in decimal.
pub const TRACKER: &str = "latest_checkpointed_iteration.txt";
/// Name of the state file in an iteration directory.
pub const COMMON: &str = "common.json";

#[cfg(test)]
mod tests;
