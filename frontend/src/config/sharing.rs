//! What replicas share of weights, from the keys of the parallel optimizer.

use athanor_ir::{Mesh, Shared, Sharing};

use super::{Config, UpdateRule};

impl Config {
    /// What replicas share of weights; `None` if each has all.
    ///
    /// MindSpore cuts the weights of a parallel optimizer, too, and gathers each once in a step; that is what sharing moments
    /// comes to. `parallel_optimizer_comm_recompute` gathers a weight again in the backward pass: then no rank keeps it.
    pub fn sharing(&self) -> Option<Sharing> {
        let (mesh, p) = (self.mesh(), &self.parallel);
        let shards = self.shards();
        // Ranks with other parts of the same sequences have the same weights, too.
        let parts = Mesh::SEQUENCE.into_iter().filter(|_| shards.is_none());
        let copies: Vec<&str> = Mesh::BATCH.into_iter().chain(parts).filter(|a| mesh.axis(a).is_some()).collect();
        if !p.enable_parallel_optimizer.value || copies.is_empty() || shards == Some(1) {
            return None;
        }
        let what = if self.recompute.parallel_optimizer_comm_recompute.value {
            Shared::Weights
        } else if p.gradient_accumulation_shard.value {
            Shared::Gradients
        } else {
            Shared::Moments
        };
        let apart = |axis: &str| axis == "dp" && shards.is_some();
        let over = copies.into_iter().filter(|axis| !apart(axis));
        let least = p.parallel_optimizer_threshold.value.saturating_mul(1024);
        Some(Sharing { what, least, over: over.map(str::to_owned).collect() })
    }

    /// How many replicas share, and others have the same parts; `None` for all of them.
    ///
    /// What does not divide is refused with the other limits of a mesh. More replicas than there are is all, as in MindSpore.
    pub(super) fn shards(&self) -> Option<usize> {
        let replicas = self.parallel_config.data_parallel.value;
        let shards = usize::try_from(self.parallel.optimizer_weight_shard_size.value).ok()?;
        let on = self.parallel.enable_parallel_optimizer.value && self.is_parallel();
        let (ep, _) = self.expert_ranks()?;
        let divides = shards > 0 && replicas.is_multiple_of(shards) && (shards == 1 || shards.is_multiple_of(ep));
        (on && shards < replicas && divides).then_some(shards)
    }

    /// Whether steps of the optimizer can be shared: those of AdamW, and of what is made of it.
    pub(super) fn shares_steps(&self) -> bool {
        matches!(self.optimizer.rule, UpdateRule::AdamW(_) | UpdateRule::Adam | UpdateRule::PmaAdamW(_))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{complaints, with};
    use super::*;

    fn sharing(more: &[(&str, &str)]) -> Option<(Shared, String, String)> {
        let on = [
            ("use_parallel", "True"),
            ("parallel_config.data_parallel", "4"),
            ("parallel.enable_parallel_optimizer", "True"),
        ];
        let config = with(&[&on[..], more].concat());
        let axes = config.mesh().axes.iter().map(|a| format!("{} {}", a.name, a.size)).collect::<Vec<_>>();
        config.sharing().map(|s| (s.what, s.over.join(","), axes.join(" ")))
    }

    const SIZE: &str = "parallel.parallel_optimizer_config.optimizer_weight_shard_size";

    #[test]
    fn keys_say_what_replicas_share() {
        let gradients = ("parallel.parallel_optimizer_config.gradient_accumulation_shard", "True");
        let weights = ("recompute_config.parallel_optimizer_comm_recompute", "True");
        let what = |more: &[(&str, &str)]| sharing(more).map(|s| s.0);
        assert_eq!(what(&[]), Some(Shared::Moments));
        assert_eq!(what(&[gradients]), Some(Shared::Gradients));
        assert_eq!(what(&[weights]), Some(Shared::Weights));
        assert_eq!(what(&[gradients, weights]), Some(Shared::Weights));
        assert_eq!(what(&[gradients, ("parallel.enable_parallel_optimizer", "False")]), None);
        assert_eq!(what(&[gradients, ("parallel_config.data_parallel", "1")]), None);
    }

    #[test]
    fn some_replicas_may_share() {
        let of = |size: &str| sharing(&[(SIZE, size)]).map(|(_, over, axes)| (over, axes));
        let split = |over: &str, axes: &str| Some((over.to_owned(), axes.to_owned()));
        assert_eq!(of("-1"), split("dp", "dp 4"));
        assert_eq!(of("2"), split("dp_shard", "dp 2 dp_shard 2"));
        assert_eq!(of("1"), None);
        assert_eq!(of("4"), split("dp", "dp 4"));
        assert_eq!(of("256"), split("dp", "dp 4"));
        let parts = |size| sharing(&[(SIZE, size), ("parallel_config.context_parallel", "2")]).map(|s| s.1);
        assert_eq!((parts("-1").as_deref(), parts("2").as_deref()), (Some("dp,cp"), Some("dp_shard")));
    }

    #[test]
    fn what_does_not_divide_is_refused() {
        let on = |more: &[(&str, &str)]| {
            let parallel = [("use_parallel", "True"), ("parallel.enable_parallel_optimizer", "True")];
            complaints(&[&parallel[..], more].concat())
        };
        let found = on(&[("parallel_config.data_parallel", "6"), (SIZE, "4")]);
        assert!(found.len() == 1 && found[0].starts_with("C0016 6 replicas"), "{found:?}");
        assert!(on(&[("parallel_config.data_parallel", "6"), (SIZE, "3")]).is_empty());
        assert!(on(&[("parallel_config.data_parallel", "2"), (SIZE, "0")]).iter().any(|f| f.contains("at least 1")));
    }
}
