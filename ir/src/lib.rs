//! The vocabulary that every other crate speaks: ops and their signatures, tensor types, modules, plans, diagnostics.

pub mod alibi;
pub mod collective;
pub mod diag;
pub mod element;
pub mod experts;
pub mod func;
pub mod infer;
pub mod lr;
pub mod memory;
#[cfg(feature = "mlir")]
pub mod mlir;
pub mod module;
pub mod names;
pub mod offload;
pub mod op;
pub mod optimizer;
pub mod pipeline;
pub mod plan;
pub mod recompute;
pub mod run;
pub mod sharding;
pub mod sharing;
pub mod signature;
pub mod streams;
pub mod target;
pub mod types;
pub mod verify;

pub use collective::{Collective, CollectiveKind};
pub use diag::{Code, Diagnostic, Result};
pub use func::{Builder, Func, FuncResult, Init, Loc, Node, Param, Role, ValueId};
pub use memory::Memory;
pub use module::{Level, Mesh, Module};
pub use op::{Binary, F64, Op, ReduceKind, RouteMask, Unary};
pub use plan::Plan;
pub use sharding::Sharding;
pub use sharing::{Shared, Sharing};
pub use types::{DType, TensorType};
