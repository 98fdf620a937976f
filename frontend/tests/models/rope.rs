//! Rotary frequencies against Hugging Face's.

use athanor_frontend::block::rope::frequencies;
use athanor_frontend::config::{Convention, PositionEmbedding};

#[test]
fn frequencies_are_those_of_transformers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/rope.json");
    let cases: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let cases = cases.as_array().unwrap();
    assert_eq!(cases.len(), 9);
    for case in cases {
        let number = |key: &str| case[key].as_u64().unwrap();
        let config = super::config(&[
            "model_type: llama",
            "vocab_size: 96",
            "hidden_size: 256",
            "num_hidden_layers: 2",
            "num_attention_heads: 4",
            "intermediate_size: 48",
            &format!("head_dim: {}", number("head_dim")),
            &format!("max_position_embeddings: {}", number("max_position_embeddings")),
            &format!("seq_length: {}", number("seq_length")),
            &format!("rope_scaling: {}", case["rope_parameters"]),
        ]);
        let PositionEmbedding::Rope(rope) = &config.model.position_embedding.value else { panic!("{case}") };
        let mut rope = rope.clone();
        // MindFormers' Mcore models apply the magnitude to the angle, and default to another one: models.md 3.3.
        assert_eq!(config.model.convention, Convention::Mcore);
        let wanted = case["attention_factor"].as_f64().unwrap();
        if let athanor_frontend::config::RopeScaling::Yarn(yarn) = &mut rope.scaling.value {
            yarn.magnitude_of = athanor_frontend::config::YarnMagnitude::CosSin;
            if case["rope_parameters"]["mscale"].is_null() {
                yarn.attention_factor = wanted;
            }
        }
        let (found, scale) = frequencies(&rope, number("head_dim") as usize, number("seq_length") as usize);
        assert!((scale - wanted).abs() < 1e-6, "{scale}: {case}");
        let inv_freq: Vec<f64> = case["inv_freq"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert_eq!(found.len(), inv_freq.len());
        for (i, (f, g)) in found.iter().zip(&inv_freq).enumerate() {
            assert!((f - g).abs() <= 2e-6 * g.abs(), "pair {i}: {f} is not {g}: {}", case["rope_parameters"]);
        }
    }
}
