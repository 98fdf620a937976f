//! The mesh of devices, from the degrees of parallelism and the number of devices.

use athanor_ir::module::Axis;
use athanor_ir::{Diagnostic, Mesh};

use super::span::Span;
use super::{Config, Generation, ParallelMode, codes, validate};

impl Config {
    /// The axes of more than one rank. Ranks are counted as in MindFormers: tensor parallel ranks are neighbours, then come
    /// those with other parts of the same sequences, then the data parallel ones, of which neighbours share the experts, and more of
    /// them weights, then the stages of a pipeline.
    pub fn mesh(&self) -> Mesh {
        if !self.is_parallel() {
            return Mesh::default();
        }
        let p = &self.parallel_config;
        // What does not divide is refused with the other limits of a mesh.
        let (ep, _) = self.expert_ranks().unwrap_or((1, false));
        // Replicas that share weights are neighbours, those of them that share experts first.
        let replicas = p.data_parallel.value;
        let (dp, shard) = self.shards().map_or((replicas / ep, 1), |n| (replicas / n.max(ep), n.max(ep) / ep));
        let (cp, up) = p.context_ranks();
        let [pp, tp] = [p.pipeline_stage.value, p.model_parallel.value];
        let axes = [("pp", pp), ("dp", dp), ("dp_shard", shard), ("ep", ep), ("cp", cp), ("up", up), ("tp", tp)];
        let axes = axes.into_iter().filter(|(_, size)| *size > 1);
        Mesh { axes: axes.map(|(name, size)| Axis { name: name.to_owned(), size }).collect() }
    }

    /// How many replicas share the experts of a layer, and whether the tensor-parallel ranks of each do, too; otherwise those
    /// have a part of every expert. `None` if `expert_parallel` is neither.
    pub fn expert_ranks(&self) -> Option<(usize, bool)> {
        let p = &self.parallel_config;
        let (dp, tp, ep) = (p.data_parallel.value, p.model_parallel.value, p.expert_parallel.value);
        if self.model.moe.is_none() || !self.is_parallel() {
            Some((1, false))
        } else if dp.is_multiple_of(ep) {
            Some((ep, false))
        } else if ep.is_multiple_of(tp) && dp.is_multiple_of(ep / tp) {
            Some((ep / tp, true))
        } else {
            None
        }
    }

    /// Whether tensor-parallel ranks share the rows of the embedding and of the output layer: as `vocab_emb_dp` says, and where
    /// it is not given in G2, which has no other way, if the rows can be dealt out evenly.
    pub fn cuts_vocabulary(&self) -> bool {
        let (tp, whole) = (self.mesh().size("tp"), &self.parallel_config.vocab_emb_dp);
        let wanted = if whole.is_set() {
            !whole.value
        } else {
            self.generation == Generation::G2 && self.model.vocab_size.value.is_multiple_of(tp)
        };
        tp > 1 && wanted
    }

    /// The configuration for a run on `devices` devices: `data_parallel` follows from them where it is not given.
    ///
    /// # Errors
    /// A contradiction that marks every degree of parallelism, if they describe another number of devices; what is not
    /// supported on so many.
    pub fn for_devices(mut self, devices: usize) -> Result<Self, Vec<Diagnostic>> {
        let p = &self.parallel_config;
        let rest = [&p.model_parallel, &p.context_parallel, &p.pipeline_stage];
        let rest = rest.iter().fold(1usize, |n, d| n.saturating_mul(d.value));
        if self.is_parallel() && !p.data_parallel.is_set() && devices.is_multiple_of(rest) {
            self.parallel_config.data_parallel.value = devices / rest;
        }
        let wanted = if self.is_parallel() { self.parallel_config.world_size() } else { 1 };
        if wanted != devices {
            return Err(vec![self.other_devices(wanted, devices)]);
        }
        let mark = |d: Diagnostic, span: Option<Span>, text: &str| self.mark(d, span, text);
        let found = validate::mesh_limits(&self, &mark);
        if found.is_empty() { Ok(self) } else { Err(found) }
    }

    fn other_devices(&self, wanted: usize, devices: usize) -> Diagnostic {
        let message = format!("the configuration is for {wanted} device(s), and there are {devices}");
        let found = Diagnostic::error(&codes::CONTRADICTION, message);
        if !self.general.use_parallel.value {
            let help = "`use_parallel` is False; set it and `parallel_config` to use several devices";
            return self.mark(found.help(help), self.general.use_parallel.span, "one device");
        }
        if self.parallel.parallel_mode.value == ParallelMode::DataParallel {
            let help = "use `parallel_mode: 1`: replicas are `parallel_config.data_parallel`";
            return self.mark(found.help(help), self.parallel.parallel_mode.span, "not supported on several devices");
        }
        let mut found = found
            .help("data_parallel · model_parallel · context_parallel · pipeline_stage must be the number of devices");
        let p = &self.parallel_config;
        for degree in [&p.data_parallel, &p.model_parallel, &p.context_parallel, &p.pipeline_stage] {
            found = self.mark(found, degree.span, &degree.value.to_string());
        }
        found
    }

    /// Marks `span` in `found`, which shows one text only.
    fn mark(&self, found: Diagnostic, span: Option<Span>, text: &str) -> Diagnostic {
        match span.and_then(|s| Some((s, self.sources.get(s.file as usize)?))) {
            Some((s, source)) if found.source.as_ref().is_none_or(|o| std::sync::Arc::ptr_eq(o, source)) => {
                found.at(source, s.start as usize..s.end as usize, text)
            }
            _ => found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{complaints, with};

    fn axes(config: &super::Config) -> Vec<(String, usize)> {
        config.mesh().axes.into_iter().map(|a| (a.name, a.size)).collect()
    }

    #[test]
    fn devices_must_be_those_of_the_configuration() {
        assert!(with(&[]).for_devices(1).is_ok());
        assert!(with(&[("use_parallel", "True")]).for_devices(1).is_ok());
        let one = with(&[("use_parallel", "True"), ("parallel_config.data_parallel", "1")]);
        let found = one.for_devices(8).unwrap_err();
        assert_eq!(found[0].message, "the configuration is for 1 device(s), and there are 8");
        assert_eq!(found[0].labels.len(), 1);
        assert!(with(&[]).for_devices(2).unwrap_err()[0].help.as_ref().unwrap().contains("use_parallel"));
        let replicas = with(&[("use_parallel", "True"), ("parallel.parallel_mode", "0")]);
        assert!(replicas.for_devices(2).unwrap_err()[0].help.as_ref().unwrap().contains("parallel_mode"));
    }

    #[test]
    fn replicas_follow_from_the_devices() {
        let parallel = ("use_parallel", "True");
        let config = with(&[parallel, ("parallel_config.model_parallel", "2")]).for_devices(8).unwrap();
        assert_eq!(axes(&config), [("dp".to_owned(), 4), ("tp".to_owned(), 2)]);
        assert_eq!(config.global_batch_size(), 8);
        assert!(with(&[parallel, ("parallel_config.model_parallel", "2")]).for_devices(3).is_err());
        assert_eq!(axes(&with(&[("parallel_config.model_parallel", "2")])), []);
        let stages = [("parallel_config.pipeline_stage", "2"), ("parallel_config.micro_batch_num", "2")];
        let all = [&[parallel, ("parallel_config.model_parallel", "2")], &stages[..]].concat();
        let config = with(&all).for_devices(8).unwrap();
        assert_eq!(axes(&config), ["pp", "dp", "tp"].map(|name| (name.to_owned(), 2)));
    }

    #[test]
    fn the_vocabulary_is_cut_where_nothing_else_is_said_and_it_can_be() {
        let cuts = |more: &[(&str, &str)]| {
            let heads = ("model.model_config.num_query_groups", "8");
            let parallel = [("use_parallel", "True"), ("parallel_config.model_parallel", "2"), heads];
            with(&[&parallel[..], more].concat()).cuts_vocabulary()
        };
        assert!(cuts(&[]));
        assert!(!cuts(&[("parallel_config.vocab_emb_dp", "True")]));
        assert!(!cuts(&[("model.model_config.vocab_size", "32001")]));
        assert!(!cuts(&[("parallel_config.model_parallel", "1")]));
    }

    #[test]
    fn what_cannot_be_cut_is_refused() {
        let on = |more: &[(&str, &str)]| {
            let parallel = [("use_parallel", "True"), ("parallel_config.model_parallel", "8")];
            complaints(&[&parallel[..], more].concat())
        };
        assert!(on(&[("model.model_config.num_query_groups", "8")]).is_empty());
        let found = on(&[]);
        assert!(found.len() == 1 && found[0].starts_with("C0016 4 key and value heads"), "{found:?}");
        let found = on(&[("model.model_config.num_query_groups", "8"), ("model.model_config.ffn_hidden_size", "12")]);
        assert!(found.len() == 1 && found[0].contains("inner width of 12"), "{found:?}");
    }
}
