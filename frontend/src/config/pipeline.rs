//! The pipeline: which layers each stage has, and in which order stages work.

use athanor_ir::Diagnostic;
use athanor_ir::pipeline::{Kind, Pipeline};

use super::node::{Kind as NodeKind, Node};
use super::parallel::PipelineScheduler;
use super::reader::FromNode;
use super::validate::Mark;
use super::{Config, Generation, codes};

/// `offset`: layers that chunks have beyond an even share, or below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offset {
    /// The same for every chunk of every stage.
    All(i64),
    /// By stage.
    PerStage(Vec<i64>),
    /// By chunk and stage.
    PerChunk(Vec<Vec<i64>>),
}

impl FromNode for Offset {
    const EXPECTED: &'static str = "an integer, a list by stage, or a list by chunk of lists by stage";
    fn from_node(node: &Node) -> Option<Self> {
        match &node.kind {
            NodeKind::Seq(items) if items.iter().any(|i| matches!(i.kind, NodeKind::Seq(_))) => {
                Vec::from_node(node).map(Self::PerChunk)
            }
            NodeKind::Seq(_) => Vec::from_node(node).map(Self::PerStage),
            _ => i64::from_node(node).map(Self::All),
        }
    }
}

impl Offset {
    /// As it is written in YAML.
    pub fn text(&self) -> String {
        match self {
            Self::All(n) => n.to_string(),
            Self::PerStage(list) => format!("{list:?}"),
            Self::PerChunk(lists) => format!("{lists:?}"),
        }
    }

    /// That of chunk `chunk` of stage `stage`; `None` if the lists are of other lengths than `chunks` and `stages`.
    fn of(&self, [chunks, stages]: [usize; 2], [chunk, stage]: [usize; 2]) -> Option<i64> {
        match self {
            Self::All(n) => Some(*n),
            Self::PerStage(list) if list.len() == stages => list.get(stage).copied(),
            Self::PerChunk(lists) if lists.len() == chunks && lists.iter().all(|l| l.len() == stages) => {
                lists.get(chunk)?.get(stage).copied()
            }
            Self::PerStage(_) | Self::PerChunk(_) => None,
        }
    }
}

impl Config {
    /// The pipeline of the run; `None` without one.
    pub fn pipeline(&self) -> Option<Pipeline> {
        (self.mesh().size("pp") > 1).then(|| {
            let slices = self.parallel_config.seq_split_num.value;
            Some(Pipeline { schedule: self.schedule()?, layers: self.stage_layers()?, slices })
        })?
    }

    /// The schedule that the settings mean, if it is supported.
    pub(super) fn schedule(&self) -> Option<Kind> {
        use PipelineScheduler::{OneFOneB, Seqpipe, Seqsmartvpp, Seqvpp};
        let chunks = self.model.chunks.value;
        match self.parallel.pipeline_scheduler.value {
            PipelineScheduler::Gpipe if chunks == 1 => Some(Kind::Gpipe),
            scheduler if scheduler.cuts_sequences() && self.parallel_config.seq_split_num.value > 1 => {
                (chunks == 1).then_some(Kind::Seqpipe)
            }
            // Sequences that are not cut leave the schedules without slices.
            OneFOneB | Seqpipe | Seqvpp | Seqsmartvpp => {
                Some(if chunks == 1 { Kind::OneFOneB } else { Kind::Interleaved })
            }
            PipelineScheduler::ZeroBubbleV if chunks == 2 => Some(Kind::ZeroBubbleV),
            PipelineScheduler::DualpipeV if chunks == 2 => Some(Kind::DualpipeV),
            _ => None,
        }
    }

    /// Layers by chunk and stage: an even share, and `offset` more. `None` if these are not all layers of the model, or a
    /// stage in the middle has none.
    ///
    /// Legacy models count the layers of further tokens, which the last chunk has beside its own.
    fn stage_layers(&self) -> Option<Vec<Vec<usize>>> {
        let (stages, chunks) = (self.parallel_config.pipeline_stage.value, self.model.chunks.value);
        let positions = stages.checked_mul(chunks).filter(|n| *n <= MOST)?;
        let further = self.model.mtp.as_ref().filter(|_| self.generation == Generation::G1);
        let further = further.map_or(0, |mtp| mtp.num_layers.value);
        let layers = self.model.num_layers.value.checked_add(further)?;
        let share = i64::try_from(layers / positions).ok()?;
        let of = |chunk: usize, stage: usize| {
            let offset = self.model.offset.value.of([chunks, stages], [chunk, stage])?;
            usize::try_from(share.checked_add(offset)?).ok()
        };
        let mut all: Vec<Vec<usize>> = (0..chunks)
            .map(|chunk| (0..stages).map(|stage| of(chunk, stage)).collect::<Option<Vec<usize>>>())
            .collect::<Option<_>>()?;
        let sum = all.iter().flatten().try_fold(0usize, |sum, n| sum.checked_add(*n));
        let shape = self.schedule().unwrap_or(Kind::OneFOneB).shape();
        let at = |p: usize| shape.at(stages, p);
        let (stage, chunk) = at(positions - 1);
        all[chunk][stage] = all[chunk][stage].checked_sub(further)?;
        let inner = (1..positions - 1).map(at).all(|(stage, chunk)| all[chunk][stage] > 0);
        (sum == Some(layers) && inner).then_some(all)
    }
}

/// More chunks than any pipeline has.
const MOST: usize = 1 << 16;

/// What of the pipeline of `config` is not supported, or contradicts itself.
pub(super) fn limits(config: &Config, mark: &Mark<'_>) -> Vec<Diagnostic> {
    let (p, m, c) = (&config.parallel_config, &config.model, &config.parallel);
    let mut found = vec![];
    let not_yet = |what: &str| Diagnostic::error(&codes::NOT_SUPPORTED, format!("{what} is not supported yet"));
    let wrong = |what: String| Diagnostic::error(&codes::CONTRADICTION, what);
    let chunks = m.chunks.value;
    let v_shape = matches!(c.pipeline_scheduler.value, PipelineScheduler::ZeroBubbleV | PipelineScheduler::DualpipeV);
    if v_shape && chunks != 2 {
        let d = wrong(format!("this schedule has two chunks of layers per stage, not {chunks}"));
        let d = mark(d.help("write `pp_interleave_num: 2`"), c.pipeline_scheduler.span, "this schedule");
        found.push(mark(d, m.chunks.span, "chunks"));
    } else if v_shape && p.micro_batch_num.value < 2 * p.pipeline_stage.value {
        let d = wrong(format!("this schedule needs {} micro batches at least", 2 * p.pipeline_stage.value));
        let d = mark(d.help("raise `micro_batch_num`, or use 1f1b"), c.pipeline_scheduler.span, "this schedule");
        found.push(mark(d, p.micro_batch_num.span, "micro batches"));
    } else if config.schedule().is_none() && p.seq_split_num.value == 1 {
        let d = not_yet("this schedule").help("use 1f1b, gpipe without `pp_interleave_num`, or zero_bubble_v");
        found.push(mark(d, c.pipeline_scheduler.span.or(p.pipeline_stage.span), "asked for here"));
    }
    // What a schedule that is not supported makes of the layers is its own affair.
    if config.schedule().is_some() && config.stage_layers().is_none() {
        let (layers, stages) = (m.num_layers.value, p.pipeline_stage.value);
        let d = wrong(format!("{layers} layers do not lie on {stages} stages with {chunks} chunk(s) of layers each"))
            .help(
                "each chunk has ⌊layers / (stages · chunks)⌋ layers and its number of `offset` more; together they are all \
                 layers, and only the first and the last chunk may have none",
            );
        let d = mark(mark(d, p.pipeline_stage.span, "stages"), m.offset.span, "layers beyond an even share");
        found.push(mark(d, m.num_layers.span, "layers"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::testing::{complaints, with};
    use athanor_ir::pipeline::{Kind, Pipeline};

    fn pipeline(layers: &str, more: &[(&str, &str)]) -> Option<Pipeline> {
        let all = [
            ("use_parallel", "True"),
            ("parallel_config.pipeline_stage", "2"),
            ("parallel_config.micro_batch_num", "4"),
            ("model.model_config.num_layers", layers),
        ];
        with(&[&all[..], more].concat()).pipeline()
    }

    fn wrong(layers: &str, more: &[(&str, &str)]) -> Vec<String> {
        let all = [
            ("use_parallel", "True"),
            ("parallel_config.pipeline_stage", "2"),
            ("parallel_config.micro_batch_num", "4"),
            ("model.model_config.num_layers", layers),
        ];
        complaints(&[&all[..], more].concat())
    }

    const CHUNKS: (&str, &str) = ("model.model_config.pp_interleave_num", "2");
    const OFFSET: &str = "model.model_config.offset";

    #[test]
    fn layers_are_dealt_out_evenly_and_by_offset() {
        let layers = |l: &str, more: &[(&str, &str)]| pipeline(l, more).unwrap().layers;
        assert_eq!(layers("4", &[]), [[2, 2]]);
        assert_eq!(layers("5", &[(OFFSET, "[0, 1]")]), [[2, 3]]);
        assert_eq!(layers("9", &[CHUNKS, (OFFSET, "[[1, 1], [1, -2]]")]), [[3, 3], [3, 0]]);
        assert_eq!(pipeline("4", &[CHUNKS]).unwrap().schedule, Kind::Interleaved);
        assert_eq!(pipeline("4", &[]).unwrap().schedule, Kind::OneFOneB);
        assert_eq!(with(&[]).pipeline(), None);
    }

    #[test]
    fn legacy_models_count_the_layers_of_further_tokens() {
        let path = "../tests/golden/corpus/pretrain_deepseek3_671b@r1.5.0.yaml";
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let config = crate::config::load(&path, &[("use_parallel".into(), "False".into())]);
        let mut config = super::super::testing::accepted(config);
        config.general.use_parallel.value = true;
        let layers = config.stage_layers().unwrap();
        assert_eq!((layers[0][..15].to_vec(), layers[0][15]), (vec![4; 15], 1), "and the further token's");
    }

    #[test]
    fn layers_that_do_not_fit_are_refused() {
        for more in [&[][..], &[(OFFSET, "[0, 2]")], &[(OFFSET, "[1]")], &[(OFFSET, "1")], &[(OFFSET, "[-3, 4]")]] {
            let found = wrong("5", more);
            assert!(found.len() == 1 && found[0].starts_with("C0016 5 layers do not lie on 2 stages"), "{found:?}");
        }
        let found = wrong("4", &[CHUNKS, (OFFSET, "[[1, -1], [0, 0]]")]);
        assert!(found.len() == 1 && found[0].contains("do not lie"), "a chunk in the middle is empty: {found:?}");
    }

    #[test]
    fn schedules_that_cannot_be_are_refused() {
        let scheduler = |name| ("parallel.pipeline_config.pipeline_scheduler", name);
        assert_eq!(pipeline("4", &[scheduler("zero_bubble_v"), CHUNKS]).unwrap().schedule, Kind::ZeroBubbleV);
        assert_eq!(pipeline("4", &[scheduler("seqpipe"), CHUNKS]).unwrap().schedule, Kind::Interleaved);
        for (more, says) in [
            (vec![scheduler("gpipe"), CHUNKS], "C0011"),
            (vec![scheduler("zero_bubble_v")], "C0016 this schedule has two chunks"),
            (
                vec![scheduler("zero_bubble_v"), CHUNKS, ("parallel_config.micro_batch_num", "3")],
                "C0016 this schedule needs 4",
            ),
        ] {
            let found = wrong("4", &more);
            assert!(found.len() == 1 && found[0].starts_with(says), "{more:?}: {found:?}");
        }
    }
}
