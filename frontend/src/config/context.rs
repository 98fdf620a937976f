//! `context`: the device.

use super::reader::{Rule, Section};
use super::span::Spanned;

/// The `context` section, as far as it matters off Ascend.
#[derive(Debug, Clone)]
pub struct Context {
    /// `device_target` as written: `Ascend` by default. It says what the file was made for; the target is chosen at
    /// compile time.
    pub device_target: Spanned<String>,
    /// `max_device_memory` in bytes.
    pub max_device_memory: Option<Spanned<u64>>,
    /// `mode`: 0 is graph, 1 is `PyNative`; both compile here.
    pub mode: Spanned<usize>,
}

pub(super) fn read(mut s: Section<'_>) -> Context {
    const TARGETS: &[(&str, &str)] = &[("Ascend", "Ascend"), ("GPU", "GPU"), ("CPU", "CPU")];
    let max_device_memory = s.opt::<String>("max_device_memory").and_then(|text| {
        let bytes = memory(&text.value);
        if bytes.is_none() {
            s.opt_checked::<String>("max_device_memory", "must be an amount of memory such as \"58GB\"", |_| false);
        }
        Some(Spanned { value: bytes?, span: text.span })
    });
    let config = Context {
        device_target: s.one_of("device_target", TARGETS, "Ascend").map(str::to_owned),
        max_device_memory,
        mode: s.checked("mode", 0, "must be 0 (graph) or 1 (PyNative)", |v| *v <= 1),
    };
    for nested in ["jit_config", "ascend_config"] {
        s.section(nested).finish(Rule::Open);
    }
    s.finish(Rule::Open);
    config
}

/// Bytes of `58GB` or `55.5GB`; a GB is 2³⁰, as in `MindSpore`.
fn memory(text: &str) -> Option<u64> {
    let number: f64 = text.trim().strip_suffix("GB").or_else(|| text.trim().strip_suffix("gb"))?.trim().parse().ok()?;
    (number > 0.0 && number < 1e6).then_some((number * (1u64 << 30) as f64) as u64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_sizes() {
        assert_eq!(super::memory("58GB"), Some(58 << 30));
        assert_eq!(super::memory("55.5 GB"), Some(111 << 29));
        assert_eq!(super::memory("58"), None);
        assert_eq!(super::memory("-1GB"), None);
    }
}
