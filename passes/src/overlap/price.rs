//! What work and messages cost, in bytes sent.

use crate::recompute::program::flops_of;
use athanor_ir::{Collective, CollectiveKind, Func, Module, Node, Op, ValueId};

/// The measure of a function's nodes.
pub(super) struct Price<'a> {
    pub module: &'a Module,
    /// Floating-point operations in the time of a byte sent.
    pub flops: f64,
    /// Bytes read or written in the time of a byte sent.
    pub bytes: f64,
}

impl Price<'_> {
    /// Of a node that sends nothing: its operations or what it reads and writes, whichever takes longer.
    pub fn work(&self, func: &Func, node: &Node) -> f64 {
        let flops = match &node.op {
            Op::Reshape | Op::Await | Op::Slice { .. } | Op::Handover { .. } => return 0.0,
            _ => flops_of(self.module, func, node),
        };
        let bytes = bytes(func, &node.inputs) + bytes(func, &node.outputs);
        (flops as f64 / self.flops).max(bytes / self.bytes)
    }

    /// Of a collective operation: the bytes that each rank has to send, if every one goes the shortest way.
    #[expect(clippy::unused_self, reason = "bytes sent are the unit")]
    pub fn sent(&self, func: &Func, node: &Node) -> f64 {
        let Op::Collective(Collective { kind, ranks, .. }) = &node.op else { return 0.0 };
        let (ins, outs) = (bytes(func, &node.inputs), bytes(func, &node.outputs));
        let others = (*ranks as f64 - 1.0) / *ranks as f64;
        match kind {
            CollectiveKind::AllReduce { .. } => 2.0 * others * ins,
            CollectiveKind::AllGather { .. } => others * outs,
            CollectiveKind::ReduceScatter { .. } | CollectiveKind::AllToAll { .. } => others * ins,
            CollectiveKind::SumEnds | CollectiveKind::Shift => ins,
            CollectiveKind::OwnPart { .. } | CollectiveKind::OwnIds { .. } | CollectiveKind::BlockIds { .. } => 0.0,
        }
    }
}

fn bytes(func: &Func, values: &[ValueId]) -> f64 {
    values.iter().map(|v| func.ty(*v).bytes() as f64).sum()
}
