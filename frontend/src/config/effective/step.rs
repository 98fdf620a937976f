//! The optimizer and its learning rates.

use athanor_ir::optimizer::Averaging;

use super::writer::{Writer, float, quoted};
use crate::config::Config;
use crate::config::lr_schedule::{LrScheduleConfig, LrShape, Steps};
use crate::config::optimizer::{MuonConfig, UpdateRule};

pub(super) fn optimizer(out: &mut Writer, config: &Config) {
    let o = &config.optimizer;
    let betas = format!("[{}, {}]", float(o.betas.value[0]), float(o.betas.value[1]));
    out.section("optimizer", |out| {
        out.raw("type", &o.kind);
        match &o.rule {
            UpdateRule::AdamW(_) | UpdateRule::Adam | UpdateRule::Lamb | UpdateRule::PmaAdamW(_) => {
                out.raw("betas", &betas);
                out.float("eps", o.eps.value);
            }
            UpdateRule::Muon(m) => {
                out.raw("adamw_betas", &betas);
                out.float("adamw_eps", o.eps.value);
                muon(out, m);
            }
            UpdateRule::Came(c) => {
                out.float("beta1", c.beta1);
                out.float("beta3", c.beta3);
                out.float("decay_rate", c.decay_rate);
                out.raw("eps", &format!("[{}]", c.eps.map(float).join(", ")));
                out.float("clip_threshold", c.clip_threshold);
                out.boolean("scale_parameter", c.scale_parameter);
            }
            UpdateRule::Sgd(s) => {
                out.float("momentum", s.momentum);
                if s.decay_all {
                    out.float("dampening", s.dampening);
                }
                out.boolean(if s.decay_all { "nesterov" } else { "use_nesterov" }, s.nesterov);
            }
        }
        if let UpdateRule::PmaAdamW(p) = &o.rule {
            match p.averaging {
                Averaging::Ema { alpha } => {
                    out.raw("fused_algo", "ema");
                    out.float("ema_alpha", alpha);
                }
                Averaging::Sma => out.raw("fused_algo", "sma"),
            }
            out.number("interleave_step", p.interleave_step);
            out.number("fused_num", p.fused_num);
        }
        out.float("weight_decay", o.weight_decay.value);
        for (key, names) in
            [("weight_decay_include", &o.weight_decay_include), ("weight_decay_exclude", &o.weight_decay_exclude)]
        {
            if !names.is_empty() {
                out.raw(key, &list(names.iter().map(|n| &n.value)));
            }
        }
        out.boolean("swap", o.swap.value);
    });
}

fn muon(out: &mut Writer, m: &MuonConfig) {
    out.float("momentum", m.momentum);
    out.boolean("nesterov", m.nesterov);
    out.float("matched_adamw_rms", m.matched_adamw_rms);
    let one = |c: &[f64; 3]| format!("[[{}], 1]", c.map(float).join(", "));
    out.raw("ns_coefficients", &format!("[{}]", m.coefficients.iter().map(one).collect::<Vec<_>>().join(", ")));
    out.raw("adamw_include", &list(m.adamw_include.iter()));
    out.boolean("qk_clip_enabled", m.qk_clip.value);
}

fn steps(out: &mut Writer, name: &str, steps: Steps) {
    match steps {
        Steps::Count(n) => out.number(&format!("{name}_steps"), n),
        Steps::Ratio(r) => out.float(&format!("{name}_ratio"), r),
        Steps::Epochs(n) => out.number(&format!("{name}_epochs"), n),
    }
}

fn optional_steps(out: &mut Writer, name: &str, given: Option<Steps>) {
    if let Some(given) = given {
        steps(out, name, given);
    }
}

pub(super) fn lr_schedule(out: &mut Writer, config: &Config) {
    if config.lr_groups.is_empty() {
        out.section("lr_schedule", |out| schedule(out, &config.lr_schedule));
        return;
    }
    out.section("grouped_lr_schedule", |out| {
        out.section("default", |out| schedule(out, &config.lr_schedule));
        out.section("grouped", |out| {
            for group in &config.lr_groups {
                out.item(|out| {
                    out.raw("params", &list(group.params.value.iter()));
                    schedule(out, &group.schedule);
                });
            }
        });
    });
}

fn list<'a>(items: impl Iterator<Item = &'a String>) -> String {
    format!("[{}]", items.map(|p| quoted(p)).collect::<Vec<_>>().join(", "))
}

fn schedule(out: &mut Writer, l: &LrScheduleConfig) {
    out.raw("type", &l.kind);
    out.float("learning_rate", l.learning_rate.value);
    match &l.total_steps {
        Some(total) => out.number("total_steps", total.value),
        None => out.number("total_steps", -1),
    }
    steps(out, "warmup", l.warmup.value);
    out.float("warmup_lr_init", l.warmup_lr_init.value);
    match &l.shape {
        LrShape::Constant | LrShape::Linear => {}
        LrShape::Cosine { num_cycles, lr_end, decay_steps }
        | LrShape::CosineWithRestarts { num_cycles, lr_end, decay_steps } => {
            out.float("num_cycles", *num_cycles);
            out.float("lr_end", *lr_end);
            optional_steps(out, "decay", *decay_steps);
        }
        LrShape::Polynomial { power, lr_end, decay_steps } => {
            out.float("power", *power);
            out.float("lr_end", *lr_end);
            optional_steps(out, "decay", *decay_steps);
        }
        LrShape::WarmUpStableDecay { decay_start, lr_end } => {
            steps(out, "decay_start", *decay_start);
            out.float("lr_end", *lr_end);
        }
        LrShape::ConstantWithCoolDown { keep_steps, decay_steps, lr_end1, final_steps, lr_end2, num_cycles } => {
            out.number("keep_steps", keep_steps);
            optional_steps(out, "decay", *decay_steps);
            out.float("lr_end1", *lr_end1);
            out.number("final_steps", final_steps);
            if let Some(end) = lr_end2 {
                out.float("lr_end2", *end);
            }
            out.float("num_cycles", *num_cycles);
        }
        LrShape::CosineAnnealing { t_max, eta_min } => {
            out.number("t_max", t_max);
            out.float("eta_min", *eta_min);
        }
        LrShape::CosineAnnealingWarmRestarts { t_0, t_mult, eta_min } => {
            out.number("t_0", t_0);
            out.number("t_mult", t_mult);
            out.float("eta_min", *eta_min);
        }
    }
}
