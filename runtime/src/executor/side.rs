//! What `micro` gives beside the loss: its parts, and the tokens of each expert.

use athanor_backends::cpu::device::CpuDevice;
use athanor_ir::DType;

/// Results beside the loss of one optimizer step.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Side {
    /// Parts of the loss by name (`lm_loss`, `mtp_loss`, `aux_loss`, `z_loss`), means over the micro-batches.
    pub losses: Vec<(String, f64)>,
    /// Tokens of each expert over the step, by block.
    pub load: Vec<(String, Vec<f32>)>,
}

impl Side {
    /// `MaxVio`: how far the busiest expert of any layer is above an even load, as a share of it (Wang et al. 2024,
    /// arXiv 2408.15664, 4.1). `None` without experts or without tokens.
    pub fn max_violation(&self) -> Option<f64> {
        let of_layer = |load: &Vec<f32>| {
            let mean = load.iter().map(|x| f64::from(*x)).sum::<f64>() / load.len().max(1) as f64;
            let most = load.iter().copied().fold(0.0f32, f32::max);
            (mean > 0.0).then(|| f64::from(most) / mean - 1.0)
        };
        self.load.iter().filter_map(|(_, load)| of_layer(load)).max_by(f64::total_cmp)
    }
}

/// Which results those are.
#[derive(Debug, Default)]
pub(super) struct SideResults {
    losses: Vec<String>,
    /// Block and buffer.
    load: Vec<(String, usize)>,
}

impl SideResults {
    pub fn of(device: &CpuDevice) -> Self {
        let Some(micro) = device.stage().program("micro") else { return Self::default() };
        let losses = micro.results.iter().map(|r| &r.0);
        let losses = losses.filter(|n| n.ends_with("_loss") && device.scalar("micro", n).is_some()).cloned().collect();
        let floats = |i: &usize| device.stage().buffers.get(*i).is_some_and(|b| b.dtype == DType::F32);
        let load = micro
            .results
            .iter()
            .filter(|(_, i)| floats(i))
            .filter_map(|(name, i)| name.strip_prefix("expert_load.").map(|block| (block.to_owned(), *i)))
            .collect();
        Self { losses, load }
    }

    /// Adds what a micro-batch of `count` gave to `side`; the program must be the last that ran.
    pub fn add(&self, device: &CpuDevice, count: usize, side: &mut Side) {
        if side.losses.is_empty() {
            side.losses = self.losses.iter().map(|n| (n.clone(), 0.0)).collect();
        }
        for (name, mean) in &mut side.losses {
            *mean += device.scalar("micro", name).unwrap_or(f64::NAN) / count as f64;
        }
        // Counts are summed over micro-batches where gradients are: the last one has them all.
        let read = |i: usize| device.bytes(i).chunks_exact(4).map(|b| f32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
        side.load = self.load.iter().map(|(block, i)| (block.clone(), read(*i).collect())).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_violation_is_that_of_the_busiest_expert() {
        let load = |x: &[f32]| ("b".to_owned(), x.to_vec());
        assert_eq!(Side::default().max_violation(), None);
        assert_eq!(Side { load: vec![load(&[0.0, 0.0])], ..Side::default() }.max_violation(), None);
        let side = Side { load: vec![load(&[4.0, 4.0, 4.0, 4.0]), load(&[1.0, 7.0, 4.0, 4.0])], ..Side::default() };
        assert_eq!(side.max_violation(), Some(0.75));
    }
}
