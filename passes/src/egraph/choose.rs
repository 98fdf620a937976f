//! Extraction: which of its nodes computes each class.

use super::{ENode, Graph, Head, ty};
use athanor_ir::op::Op;
use athanor_ir::types::TensorType;
use egg::Id;
use std::collections::{HashMap, HashSet};

/// The cheapest node of each class, such that following the choices never leads back.
///
/// Costs are those of trees, but classes that could read the same class share its cost. So the cost of a deep network
/// stays a sum over its ops, and differences between two choices are not lost in it.
pub(super) fn choose(graph: &Graph, cost: fn(&Op, &[TensorType], &[TensorType]) -> f64) -> HashMap<Id, ENode> {
    let mut classes: Vec<Id> = graph.classes().map(|c| c.id).collect();
    classes.sort_unstable();
    let index: HashMap<Id, usize> = classes.iter().enumerate().map(|(i, id)| (*id, i)).collect();
    let choices: Vec<Vec<Choice>> = classes.iter().map(|id| choices_of(graph, *id, &index, cost)).collect();
    let mut readers: Vec<HashSet<usize>> = vec![HashSet::new(); classes.len()];
    for (i, of) in choices.iter().enumerate() {
        of.iter().flat_map(|c| &c.children).for_each(|c| _ = readers[*c].insert(i));
    }
    let shares: Vec<f64> = readers.iter().map(|r| 1.0 / r.len().max(1) as f64).collect();
    let best = without_rings(&choices, &shares);
    let node = |(i, b): (usize, &Option<(f64, usize)>)| Some((classes[i], choices[i][b.as_ref()?.1].node.clone()));
    best.iter().enumerate().filter_map(node).collect()
}

/// The cheapest choices of all that close no ring.
///
/// Two classes of many readers may each look cheapest as a function of the other (y = −x and x = −y). Of the choices
/// that close such a ring the one that is missed least is excluded, and the rest is chosen anew.
fn without_rings(choices: &[Vec<Choice>], shares: &[f64]) -> Vec<Option<(f64, usize)>> {
    let lowest = lowest(choices);
    let mut allowed: Vec<Vec<bool>> = choices.iter().map(|c| vec![true; c.len()]).collect();
    loop {
        let best = cheapest(choices, shares, &allowed);
        let rings = rings(choices, &best);
        for ring in &rings {
            // The lowest choices alone form no ring, so that some member chose another one.
            let give_way = ring.iter().filter_map(|i| {
                let (cost, chosen) = best[*i]?;
                let other = best_of(*i, choices, shares, &allowed, &best, Some(chosen))?;
                (Some(chosen) != lowest[*i]).then_some((other.0 - cost, *i, chosen))
            });
            if let Some((_, i, chosen)) = give_way.min_by(|a, b| a.0.total_cmp(&b.0)) {
                allowed[i][chosen] = false;
            }
        }
        if rings.is_empty() {
            return best;
        }
    }
}

/// A node that a class can be computed by.
struct Choice {
    node: ENode,
    /// Positions of the operand classes.
    children: Vec<usize>,
    /// Cost of the node itself.
    own: f64,
}

fn choices_of(
    graph: &Graph,
    id: Id,
    index: &HashMap<Id, usize>,
    cost: fn(&Op, &[TensorType], &[TensorType]) -> f64,
) -> Vec<Choice> {
    let choice = |node: &ENode| {
        let own = match &node.head {
            Head::Op(op, _) | Head::Sent(_, op, _) => {
                let ins: Vec<TensorType> = node.children.iter().filter_map(|c| ty(graph, *c).cloned()).collect();
                cost(op, &ins, &graph[id].data)
            }
            _ => 0.0,
        };
        let children = node.children.iter().map(|c| index[&graph.find(*c)]).collect();
        Choice { node: node.clone(), children, own: own.max(1e-3) }
    };
    graph[id].nodes.iter().map(choice).collect()
}

/// By class, the choice of least height: its operands are all of less height than the class.
fn lowest(choices: &[Vec<Choice>]) -> Vec<Option<usize>> {
    let mut found: Vec<Option<(usize, usize)>> = vec![None; choices.len()];
    loop {
        let mut changed = false;
        for (i, of) in choices.iter().enumerate() {
            for (k, c) in of.iter().enumerate() {
                let heights: Option<Vec<usize>> = c.children.iter().map(|c| found[*c].map(|f| f.0)).collect();
                let Some(height) = heights.map(|h| h.into_iter().max().unwrap_or(0) + 1) else { continue };
                if found[i].is_none_or(|f| height < f.0) {
                    found[i] = Some((height, k));
                    changed = true;
                }
            }
        }
        if !changed {
            return found.into_iter().map(|f| f.map(|f| f.1)).collect();
        }
    }
}

/// Cost and position of the cheapest allowed choice of class `i` but for `without`, given those of its operands.
fn best_of(
    i: usize,
    choices: &[Vec<Choice>],
    shares: &[f64],
    allowed: &[Vec<bool>],
    best: &[Option<(f64, usize)>],
    without: Option<usize>,
) -> Option<(f64, usize)> {
    let price = |(k, c): (usize, &Choice)| {
        let operand = |c: &usize| best[*c].map(|b| b.0 * shares[*c]);
        let operands: Option<f64> = c.children.iter().map(operand).sum();
        (allowed[i][k] && Some(k) != without).then_some((c.own + operands?, k))
    };
    choices[i].iter().enumerate().filter_map(price).min_by(|a, b| a.0.total_cmp(&b.0))
}

/// The cheapest allowed choice of every class.
fn cheapest(choices: &[Vec<Choice>], shares: &[f64], allowed: &[Vec<bool>]) -> Vec<Option<(f64, usize)>> {
    let mut best: Vec<Option<(f64, usize)>> = vec![None; choices.len()];
    loop {
        let mut changed = false;
        for i in 0..choices.len() {
            let found = best_of(i, choices, shares, allowed, &best, None);
            // In a ring costs fall ever more slowly; less than a part in a billion is no reason to go on.
            if found.is_some_and(|f| best[i].is_none_or(|b| f.0 < b.0 * (1.0 - 1e-9))) {
                best[i] = found;
                changed = true;
            }
        }
        if !changed {
            return best;
        }
    }
}

/// Sets of classes whose choices lead from each to each.
fn rings(choices: &[Vec<Choice>], best: &[Option<(f64, usize)>]) -> Vec<Vec<usize>> {
    let mut chosen = petgraph::graph::DiGraph::<(), ()>::new();
    let nodes: Vec<_> = (0..best.len()).map(|_| chosen.add_node(())).collect();
    let mut on_itself = vec![];
    for (i, b) in best.iter().enumerate() {
        let Some((_, k)) = b else { continue };
        for c in &choices[i][*k].children {
            chosen.add_edge(nodes[i], nodes[*c], ());
            if *c == i {
                on_itself.push(vec![i]);
            }
        }
    }
    let parts = petgraph::algo::tarjan_scc(&chosen).into_iter().filter(|p| p.len() > 1);
    parts.map(|p| p.into_iter().map(petgraph::graph::NodeIndex::index).collect()).chain(on_itself).collect()
}
