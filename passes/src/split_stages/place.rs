//! Where in the pipeline each op of `micro` runs.

use athanor_ir::pipeline::Pipeline;
use athanor_ir::recompute::number_of_layer;
use athanor_ir::{Func, Node, Op, Role, ValueId};
use std::collections::HashSet;

/// Where an op runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Wherever it is read: it depends on inputs and constants alone.
    Free,
    /// In the forward part of a position.
    Forward(usize),
    /// In the forward part behind the layers: at the last position, after the turn.
    Tail,
    /// In the backward part of a position.
    Backward(usize),
}

/// The place of each node of `micro`.
///
/// Forward ops never run before what they read, backward ops never behind. An op without a layer is at the first position if a
/// layer reads it, else behind the layers; a gradient without a layer is at the first position if it depends on a layer's.
///
/// Slices go back in reverse order, and what is behind the layers comes after the turn. So with slices no more than the logits and
/// what is made of them is there: a layer that predicts a further token looks along the sequence, too.
pub(super) fn places(micro: &Func, pipeline: &Pipeline) -> Vec<Place> {
    let (layers, last) = (pipeline.all_layers(), pipeline.positions() - 1);
    let defs = micro.defs();
    let makers = |node: &Node| node.inputs.iter().filter_map(|v| defs[v.0 as usize]).collect::<Vec<usize>>();
    let forward = micro.needed_for(micro.forward_results());
    let free = free(micro);
    // Of forward nodes; `last + 1` is behind the layers, `None` where readers decide.
    let mut at: Vec<Option<usize>> = vec![None; micro.nodes.len()];
    let mut behind = vec![false; micro.nodes.len()];
    for (i, node) in micro.nodes.iter().enumerate().filter(|(i, _)| forward[*i] && !free[*i]) {
        let own = layer(node).map(|l| if l < layers { pipeline.position_of(l) } else { last + 1 });
        let before = makers(node);
        behind[i] = own.is_some() || before.iter().any(|m| behind[*m]);
        let least = before.iter().filter_map(|m| at[*m]).max().unwrap_or(0);
        at[i] = own.or(behind[i].then_some(last + 1)).map(|p| p.max(least));
    }
    let mut first_reader = vec![last + 1; micro.nodes.len()];
    for (i, node) in micro.nodes.iter().enumerate().rev().filter(|(i, _)| forward[*i] && !free[*i]) {
        // What layers read is the embedding; the rest belongs to what is behind them.
        let place = *at[i].get_or_insert(if first_reader[i] > last { last + 1 } else { 0 });
        for m in makers(node) {
            first_reader[m] = first_reader[m].min(place);
        }
    }
    let turned = if pipeline.slices > 1 { of_logits(micro) } else { vec![true; micro.nodes.len()] };
    let mut places: Vec<Place> = vec![];
    let mut under = vec![false; micro.nodes.len()];
    let sums: HashSet<ValueId> = micro.params.iter().filter(|p| p.role == Role::Grad).map(|p| p.value).collect();
    for (i, node) in micro.nodes.iter().enumerate() {
        places.push(match at[i] {
            _ if free[i] => Place::Free,
            Some(p) if forward[i] => {
                if p > last && turned[i] {
                    Place::Tail
                } else {
                    Place::Forward(p.min(last))
                }
            }
            _ => {
                let before = makers(node);
                let of_layer = layer(node);
                under[i] = of_layer.is_some_and(|l| l < layers) || before.iter().any(|m| under[*m]);
                // What adds up micro-batches is where the gradient is made.
                let adds = node.inputs.iter().any(|v| sums.contains(v));
                let elsewhere = if under[i] && !adds { 0 } else { last };
                let own = of_layer.map_or(elsewhere, |l| pipeline.position_of(l));
                let back = |m: &usize| if let Place::Backward(p) = places[*m] { Some(p) } else { None };
                Place::Backward(before.iter().filter_map(back).min().map_or(own, |p| p.min(own)))
            }
        });
    }
    places
}

/// Nodes that make logits, or something of them.
fn of_logits(func: &Func) -> Vec<bool> {
    let losses = func.nodes.iter().filter(|n| matches!(n.op, Op::CrossEntropy | Op::PartEntropy));
    let logits: HashSet<ValueId> = losses.map(|n| n.inputs[0]).collect();
    let mut made = vec![false; func.types.len()];
    let mut of = vec![false; func.nodes.len()];
    for (i, node) in func.nodes.iter().enumerate() {
        of[i] = node.inputs.iter().any(|v| made[v.0 as usize]) || node.outputs.iter().any(|v| logits.contains(v));
        node.outputs.iter().for_each(|v| made[v.0 as usize] = of[i]);
    }
    of
}

/// Number of the layer that `node` is part of.
pub(super) fn layer(node: &Node) -> Option<usize> {
    number_of_layer(&node.loc.block)
}

/// Nodes that depend on inputs and constants alone.
fn free(func: &Func) -> Vec<bool> {
    let mut known = vec![false; func.types.len()];
    func.params.iter().filter(|p| p.role == Role::Input).for_each(|p| known[p.value.0 as usize] = true);
    let mut free = vec![false; func.nodes.len()];
    for (i, node) in func.nodes.iter().enumerate() {
        free[i] = node.inputs.iter().all(|v: &ValueId| known[v.0 as usize]);
        node.outputs.iter().for_each(|v| known[v.0 as usize] = free[i]);
    }
    free
}
