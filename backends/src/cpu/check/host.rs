//! Which memory a step may reach: the device's, and for copies between the two the host's.

use athanor_ir::plan::{Action, Buffer};
use athanor_ir::{Memory, Op};

/// Checks that `action` reads and writes where it can.
pub(super) fn reached(action: &Action, ins: &[&Buffer], outs: &[&Buffer]) -> Result<(), String> {
    let (from, to) = match action {
        Action::Op(Op::ToHost) => (Memory::Device, Memory::Host),
        Action::Op(Op::FromHost) => (Memory::Host, Memory::Device),
        _ => (Memory::Device, Memory::Device),
    };
    let elsewhere = |list: &[&Buffer], memory: Memory| list.iter().find(|b| b.memory != memory).map(|b| b.name.clone());
    match (elsewhere(ins, from), elsewhere(outs, to)) {
        (Some(name), _) => Err(format!("reads `{name}`, which is not in the memory of the {}", from.name())),
        (_, Some(name)) => Err(format!("writes `{name}`, which is not in the memory of the {}", to.name())),
        (None, None) => Ok(()),
    }
}
