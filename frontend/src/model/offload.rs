//! What lies on the host: from `swap_config` and `optimizer.swap` to layers and operators of the model.

use athanor_ir::offload::{Offload, Swap};
use athanor_ir::recompute::{Operators, Recompute};
use athanor_ir::{Diagnostic, Func, Result};

use super::recompute::{Model, pattern, unfit};
use crate::config::{Config, Numbers};

/// What `config` keeps of `forward` on the host.
///
/// # Errors
/// [`super::recompute::BAD_OPERATOR_PATTERN`].
pub(super) fn choice(config: &Config, forward: &Func) -> Result<Offload> {
    let moments = config.optimizer.swap.value;
    let c = &config.swap;
    if !c.swap.value {
        return Ok(Offload { moments, ..Offload::default() });
    }
    let model = Model::of_config(config, forward);
    let mut values = vec![];
    for entry in c.entries() {
        let layers = numbered(&model, &entry.layers.value);
        let mut swap = Swap { prefetch: entry.backward_prefetch.value, ..Swap::default() };
        match &entry.op_name {
            Some(text) => swap.operators = model.fitting(&pattern(config, &text.value, text)?, &layers),
            None => swap.layers = layers,
        }
        values.push(swap);
    }
    if values.is_empty() {
        values.push(Swap { prefetch: c.default_prefetch.value, layers: model.layers(), operators: vec![] });
    }
    Ok(Offload { values, moments, done: None })
}

fn numbered(model: &Model, numbers: &Numbers) -> Vec<String> {
    match numbers {
        Numbers::All(all) => {
            if *all {
                model.layers()
            } else {
                vec![]
            }
        }
        Numbers::Some(list) => list.iter().filter_map(|i| model.layers().get(*i).cloned()).collect(),
    }
}

/// `recompute` without what `config` names to be on the host: it is there, and need not be computed again.
pub(super) fn kept(config: &Config, forward: &Func, offload: &Offload, recompute: Recompute) -> Recompute {
    let named = config.swap.entries().next().is_some();
    if recompute.is_none() || !config.swap.swap.value || !named {
        return recompute;
    }
    let model = Model::of_config(config, forward);
    let mut out = recompute;
    for swap in &offload.values {
        out.layers.retain(|l| !swap.layers.contains(l));
        out.keep.extend(swap.operators.iter().cloned());
        out.keep.extend(model.all_of(&swap.layers));
    }
    out
}

impl Model {
    /// Every operator of `layers`.
    fn all_of(&self, layers: &[String]) -> Vec<Operators> {
        let of =
            |(layer, paths): &(String, Vec<String>)| Operators { layers: vec![layer.clone()], paths: paths.clone() };
        self.0.iter().filter(|(layer, _)| layers.contains(layer)).map(of).collect()
    }
}

/// Notes on patterns of `config` that fit no operator of `forward`.
pub fn notes(config: &Config, forward: &Func) -> Vec<Diagnostic> {
    let names = config.swap.op_swap.iter().filter_map(|e| e.op_name.as_ref()).filter(|_| config.swap.swap.value);
    let model = Model::of_config(config, forward);
    names.filter_map(|name| unfit(config, &model, "op_swap", &name.value, name)).collect()
}
