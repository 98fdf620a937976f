//! The two memories of a stage: that of its device, and the host's.

use crate::func::{Func, Role};
use crate::op::Op;
use serde::{Deserialize, Serialize};

/// Which memory something lies in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Memory {
    /// The device's, where every op but a copy finds its operands.
    #[default]
    Device,
    /// The host's, reached by [`Op::ToHost`] and [`Op::FromHost`] alone.
    Host,
}

impl Memory {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Device, Self::Host];

    /// True for the device's memory, which is not written out.
    pub fn is_device(&self) -> bool {
        *self == Self::Device
    }

    /// The spelling in IR.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Host => "host",
        }
    }

    /// The memory of this spelling.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|m| m.name() == name)
    }
}

/// Which memory each value of `func` lies in.
pub fn of_values(func: &Func) -> Vec<Memory> {
    let mut memory = vec![Memory::Device; func.types.len()];
    func.params.iter().for_each(|p| memory[p.value.0 as usize] = p.memory);
    let copied = func.nodes.iter().filter(|n| n.op == Op::ToHost).flat_map(|n| &n.outputs);
    copied.for_each(|v| memory[v.0 as usize] = Memory::Host);
    memory
}

/// Checks that values on the host are read by copies back alone, and that a state is left in the memory it lies in.
///
/// # Errors
/// The parameter, op or result that breaks a rule.
pub(crate) fn check(func: &Func) -> Result<(), String> {
    let memory = of_values(func);
    for p in func.params.iter().filter(|p| p.memory == Memory::Host) {
        if p.role != Role::Moment {
            return Err(format!("parameter {} is no state of the optimizer and cannot lie on the host", p.name));
        }
    }
    for (i, node) in func.nodes.iter().enumerate() {
        let wanted = if node.op == Op::FromHost { Memory::Host } else { Memory::Device };
        if node.inputs.iter().any(|v| memory[v.0 as usize] != wanted) {
            let (name, other) = (node.op.name(), if wanted == Memory::Host { "device" } else { "host" });
            return Err(format!("op {i} (nn.{name} in {:?}) reads a value on the {other}", node.loc.block));
        }
    }
    for r in &func.results {
        let state = func.find_param(&r.name).map_or(Memory::Device, |p| p.memory);
        let found = memory[r.value.0 as usize];
        if found != state {
            return Err(format!("result {} is on the {}, not on the {}", r.name, found.name(), state.name()));
        }
    }
    Ok(())
}
