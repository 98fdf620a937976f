//! Rounds as [`super::check`] follows them: which rows go in one, and whether all ranks that meet in it run as many.

use super::check::{Checked, Checker, Spread, agree};
use super::experts::{Experts, tokens};
use super::spread::Axes;
use athanor_ir::{Node, Op};

impl Checker<'_> {
    /// How the results of `node` are spread, if it is one that rounds are made of.
    pub(super) fn in_rounds(&self, node: &Node) -> Checked<Option<Vec<Spread>>> {
        let operands: Vec<&Spread> = node.inputs.iter().map(|v| self.of(*v)).collect();
        let dim = |i: usize, d: usize| operands[i].dims.get(d).copied().flatten().unwrap_or_default();
        Ok(match &node.op {
            Op::Rounds { .. } => {
                let experts = operands[0].experts.needed()?;
                Some(vec![Spread { experts, ..Spread::default() }])
            }
            Op::Portion { .. } => {
                let by = tokens(operands[0]);
                let (places, rows) = Experts::portion(by, &operands, dim(1, 1))?;
                let places = Spread { dims: operands[0].dims.clone(), experts: places, ..Spread::default() };
                let dims = vec![Some(by), Some(Axes::NONE)];
                Some(vec![places, Spread { dims, experts: rows, ..Spread::default() }])
            }
            Op::Slice { dim: 0, .. } => operands[0].experts.holders().map(|own| {
                let mut dims = operands[0].dims.clone();
                dims[0] = Some(own);
                vec![Spread { dims, ..operands[0].clone() }]
            }),
            Op::Repeat { callee } => Some(self.repeated(node, callee)?),
            _ => None,
        })
    }

    /// How the sums that @`callee` makes are spread.
    fn repeated(&self, node: &Node, callee: &str) -> Checked<Vec<Spread>> {
        let func = self.module.func(callee).ok_or_else(|| format!("repeats unknown @{callee}"))?;
        let mut met = Axes::NONE;
        for c in func.nodes.iter().filter_map(|n| if let Op::Collective(c) = &n.op { Some(c) } else { None }) {
            met = met.or(if c.sends() { self.axes(c.axes())? } else { Axes::NONE });
        }
        if !met.without(self.of(node.inputs[0]).experts.agreed()).is_empty() {
            return Err("is run as often as each rank wants, and ranks meet in it".into());
        }
        let mut inner = Checker { module: self.module, func, spread: vec![Spread::default(); func.types.len()] };
        let count = node.outputs.len();
        for (i, p) in func.params.iter().enumerate().skip(1) {
            let spread = if i <= count {
                self.declared(&p.sharding, func.ty(p.value).rank())?
            } else {
                self.of(node.inputs[i - count]).clone()
            };
            inner.spread[p.value.0 as usize] = spread;
        }
        inner.nodes().map_err(|e| format!("@{callee}: {e}"))?;
        let results = func.params[1..].iter().zip(&func.results).map(|(p, r)| (p.value, r.value));
        let mut sums = vec![];
        for (so_far, new) in results {
            let (so_far, new) = (inner.of(so_far), inner.of(new));
            if new.experts != Experts::default() {
                return Err(format!("@{callee} sums up rows of experts"));
            }
            if !agree(so_far, new) {
                return Err(format!("@{callee} sums up what is spread in another way"));
            }
            sums.push(Spread { vague: new.vague, ..so_far.clone() });
        }
        Ok(sums)
    }
}
