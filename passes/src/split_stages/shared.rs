//! Gradients of weights that several positions have: each position sums up its own part.

use super::cannot;
use super::place::Place;
use athanor_ir::{Binary, Builder, Func, Loc, Op, Param, Result, Role, ValueId};
use std::collections::{BTreeSet, HashMap, HashSet};

/// The gradient of such a weight.
pub(super) struct Shared {
    /// Name of the result.
    pub(super) name: String,
    /// What earlier micro-batches left.
    before: ValueId,
    /// What is added to it, each with its position.
    terms: Vec<(ValueId, usize)>,
    loc: Loc,
}

impl Shared {
    /// The gradients of all weights of `micro` that nodes at several positions read, and the nodes that are their sums.
    ///
    /// # Errors
    /// [`super::CANNOT_SPLIT`] for a gradient that is not added to that of earlier micro-batches.
    pub(super) fn all(micro: &Func, places: &[Place], last: usize) -> Result<(Vec<Self>, HashSet<usize>)> {
        let (mut all, mut summed) = (vec![], HashSet::new());
        for w in micro.params.iter().filter(|p| matches!(p.role, Role::Weight { .. })) {
            let readers = micro.nodes.iter().zip(places).filter(|(n, _)| n.inputs.contains(&w.value));
            let positions: BTreeSet<usize> = readers.filter_map(|(_, place)| position(*place, last)).collect();
            let name = format!("grad.{}", w.name);
            let (true, Some(result)) = (positions.len() > 1, micro.find_result(&name)) else { continue };
            let Some(before) = micro.find_param(&name).map(|p| p.value) else {
                return cannot(format!(
                    "positions of several stages read {}, and there is one micro-batch in a step",
                    w.name
                ));
            };
            all.push(Self::of(micro, places, last, w, (name, before, result.value), &mut summed));
        }
        Ok((all, summed))
    }

    fn of(
        micro: &Func,
        places: &[Place],
        last: usize,
        w: &Param,
        (name, before, sum): (String, ValueId, ValueId),
        summed: &mut HashSet<usize>,
    ) -> Self {
        let (defs, uses) = (micro.defs(), micro.use_counts());
        let mut terms = vec![];
        let mut open = vec![sum];
        while let Some(v) = open.pop() {
            let Some(d) = defs[v.0 as usize] else { continue };
            let node = &micro.nodes[d];
            if node.op == Op::Binary(Binary::Add) && uses[v.0 as usize] == 1 {
                summed.insert(d);
                open.extend(node.inputs.iter().rev());
            } else {
                terms.push((v, position(places[d], last).unwrap_or(0)));
            }
        }
        Self { name, before, terms, loc: w.loc.clone() }
    }

    /// Appends the sum of what position `q` has, if it has something.
    pub(super) fn add(&self, out: &mut Func, map: &HashMap<ValueId, ValueId>, q: usize) {
        let mut own = self.terms.iter().filter(|(_, p)| *p == q).filter_map(|(v, _)| map.get(v)).copied().peekable();
        if own.peek().is_none() {
            return;
        }
        let mut b = Builder::new(out, self.loc.clone());
        let sum = own.fold(map[&self.before], |sum, term| b.add(sum, term));
        out.result(self.name.clone(), sum);
    }
}

fn position(place: Place, last: usize) -> Option<usize> {
    match place {
        Place::Free => None,
        Place::Forward(p) | Place::Backward(p) => Some(p),
        Place::Tail => Some(last),
    }
}
