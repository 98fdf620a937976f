//! What ranks bring together, and weights in another form, are made right before they are read, so that no rank has them for longer.

use athanor_ir::func::{Func, Role};
use athanor_ir::op::Op;
use athanor_ir::{Collective, CollectiveKind};

/// `func` with every `all_gather`, and what only places or converts what one gave or a weight, right before its first reader.
///
/// Rewriting puts an operand where the first of its readers begins, which for a weight of the backward part may be before all
/// layers behind its own.
pub(super) fn late_copies(func: &Func) -> Func {
    let mut order =
        Order { func, defs: func.defs(), late: late(func), placed: vec![false; func.nodes.len()], out: vec![] };
    for n in (0..func.nodes.len()).filter(|n| !order.late[*n]).collect::<Vec<_>>() {
        order.place(n);
    }
    (0..func.nodes.len()).for_each(|n| order.place(n));
    let nodes = order.out.into_iter().map(|n| func.nodes[n].clone()).collect();
    Func { nodes, ..func.clone() }
}

/// The nodes that wait for a reader.
fn late(func: &Func) -> Vec<bool> {
    let mut read = vec![false; func.types.len()];
    func.nodes.iter().flat_map(|n| &n.inputs).for_each(|v| read[v.0 as usize] = true);
    // Of a weight, or gathered.
    let mut whole = vec![false; func.types.len()];
    let weights = func.params.iter().filter(|p| matches!(p.role, Role::Weight { .. }));
    weights.for_each(|p| whole[p.value.0 as usize] = true);
    let mut late = vec![false; func.nodes.len()];
    for (i, node) in func.nodes.iter().enumerate() {
        let gathers = matches!(node.op, Op::Collective(Collective { kind: CollectiveKind::AllGather { .. }, .. }));
        let moves = matches!(node.op, Op::Cast | Op::Reshape | Op::Transpose { .. } | Op::Slice { .. });
        let of_whole = moves && node.inputs.iter().all(|v| whole[v.0 as usize]);
        late[i] = read[node.outputs[0].0 as usize] && (gathers || of_whole);
        whole[node.outputs[0].0 as usize] = late[i];
    }
    late
}

struct Order<'a> {
    func: &'a Func,
    defs: Vec<Option<usize>>,
    late: Vec<bool>,
    placed: Vec<bool>,
    out: Vec<usize>,
}

impl Order<'_> {
    /// Appends node `n`, and before it what it reads and was waiting for it.
    fn place(&mut self, n: usize) {
        if std::mem::replace(&mut self.placed[n], true) {
            return;
        }
        for d in self.func.nodes[n].inputs.iter().filter_map(|v| self.defs[v.0 as usize]).collect::<Vec<_>>() {
            if self.late[d] {
                self.place(d);
            }
        }
        self.out.push(n);
    }
}
