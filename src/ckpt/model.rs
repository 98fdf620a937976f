//! What says how the weights of a checkpoint are named: a plan, a config.json or a configuration.

#[cfg(feature = "compiler")]
use crate::codes::FILE;
use crate::codes::NO_NAMES;
use crate::failure::Failure;
use crate::train::is_plan;
use athanor_ir::Diagnostic;
use athanor_ir::names::NameTable;
use athanor_ir::plan::BufferRole;
use athanor_runtime::checkpoint::mapping::Weight;
use athanor_runtime::plan_dir;
use std::path::{Path, PathBuf};

/// Where the model of a checkpoint is described, and how MindSpore Transformers was told to fuse weights.
#[derive(clap::Args)]
#[cfg_attr(feature = "compiler", expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line"))]
pub struct Model {
    #[cfg_attr(
        feature = "compiler",
        doc = "config.json, directory with one, YAML file or plan that describes the model [default: the checkpoint's config.json]"
    )]
    #[cfg_attr(not(feature = "compiler"), doc = "Plan that describes the model")]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// MindSpore Transformers: q, k and v one behind the other instead of group by group (use_contiguous_weight_layout_attention)
    #[cfg(feature = "compiler")]
    #[arg(long)]
    contiguous_attention: bool,
    /// MindSpore Transformers: gate and up one behind the other instead of row by row (use_interleaved_weight_layout_mlp: False)
    #[cfg(feature = "compiler")]
    #[arg(long)]
    contiguous_mlp: bool,
    /// MindSpore Transformers: latent projections in one (mla_qkv_concat)
    #[cfg(feature = "compiler")]
    #[arg(long)]
    mla_qkv_concat: bool,
    /// MindSpore Transformers: experts as [e, h, 2f], not [e·h, 2f]; both are read
    #[cfg(feature = "compiler")]
    #[arg(long)]
    deep_experts: bool,
}

/// Namings, and the weights that there must be, where a model says so.
pub struct Known {
    pub tables: Vec<NameTable>,
    pub weights: Option<Vec<Weight>>,
}

impl Model {
    /// What is known of the model of the checkpoint at `path`.
    pub fn known(&self, path: &Path) -> Result<Known, Failure> {
        let given = self.config.as_deref();
        if let Some(plan) = given.filter(|p| is_plan(p)) {
            return of_plan(plan);
        }
        self.described(given, path)
    }

    #[cfg(not(feature = "compiler"))]
    fn described(&self, given: Option<&Path>, path: &Path) -> Result<Known, Failure> {
        let what = match given {
            Some(given) => format!("{} is no plan, and this runner has no compiler in it", given.display()),
            None => format!("nothing says how the weights of {} are named", path.display()),
        };
        Err(Diagnostic::error(&NO_NAMES, what).help("give a plan of the model: --config PLAN").into())
    }

    #[cfg(feature = "compiler")]
    fn described(&self, given: Option<&Path>, path: &Path) -> Result<Known, Failure> {
        use athanor_frontend::config::Layouts;
        use athanor_frontend::model::names::tables;
        let layouts = Layouts {
            contiguous_attention: self.contiguous_attention,
            interleaved_mlp: !self.contiguous_mlp,
            mla_qkv_concat: self.mla_qkv_concat,
            flat_experts: !self.deep_experts,
        };
        let yaml = |p: &&Path| p.extension().is_some_and(|e| e == "yaml" || e == "yml");
        if let Some(file) = given.filter(yaml) {
            return of_yaml(file);
        }
        let beside = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
        let file = match given {
            Some(given) if given.is_dir() => given.join("config.json"),
            Some(given) => given.to_path_buf(),
            None => beside.join("config.json"),
        };
        if given.is_none() && !file.is_file() {
            let what = format!("{} has no config.json that says how its weights are named", beside.display());
            let help = "name the model's: --config CONFIG.JSON|DIRECTORY|YAML|PLAN";
            return Err(Diagnostic::error(&NO_NAMES, what).help(help).into());
        }
        let unreadable = |why: String| {
            let d = Diagnostic::error(&FILE, format!("cannot read {}: {why}", file.display()));
            d.help("give the config.json of a Hugging Face model, a YAML file, or a plan")
        };
        let text = std::fs::read(&file).map_err(|e| unreadable(e.to_string()))?;
        let config: serde_json::Value = serde_json::from_slice(&text).map_err(|e| unreadable(e.to_string()))?;
        if config.get("model_type").is_none() && config.get("text_config").is_none() {
            return Err(unreadable("it has no `model_type`".into()).into());
        }
        Ok(Known { tables: tables(&config, layouts), weights: None })
    }
}

fn of_plan(path: &Path) -> Result<Known, Failure> {
    let plan = plan_dir::read(path)?.plan;
    let buffers = plan.stages.iter().flat_map(|s| &s.buffers);
    let weights = buffers.filter(|b| matches!(b.role, BufferRole::Weight { .. }));
    let weights = weights.map(|b| Weight { name: b.name.clone(), dtype: b.dtype, dims: b.dims.clone() }).collect();
    Ok(Known { tables: plan.run.weights, weights: Some(weights) })
}

#[cfg(feature = "compiler")]
fn of_yaml(path: &Path) -> Result<Known, Failure> {
    use crate::config_args::{Overrides, read};
    use athanor_frontend::model::{Outputs, forward, hf, names};
    use athanor_ir::Role;
    let config = read(path, &Overrides::default(), None)?;
    let func = forward(&config.model, &config.sources, 1, Outputs::default())?;
    let weights = func.params.iter().filter(|p| matches!(p.role, Role::Weight { .. } | Role::ExpertBias { .. }));
    let weight = |p: &athanor_ir::Param| {
        let ty = func.ty(p.value);
        Weight { name: p.name.clone(), dtype: ty.dtype, dims: ty.dims.clone() }
    };
    let tables = names::tables(&hf::config_json(&config.model), config.model.layouts);
    Ok(Known { tables, weights: Some(weights.map(weight).collect()) })
}
