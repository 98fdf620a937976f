//! The keys that `MindSpore` Transformers knows in each section, read or not, and the suggestions made from them.
//!
//! Source: the section templates of `MindFormers` 1.0 to 2.1 and the configurations published with them.

/// Dotted path of a section and the keys it may have, in words. The empty path is the top level.
const SECTIONS: &[(&str, &str)] = &[
    (
        "",
        "\
          base_config run_mode seed output_dir use_parallel resume_training print_separate_loss load_checkpoint \
          load_ckpt_format auto_trans_ckpt transform_process_num src_strategy_path_or_dir only_save_strategy \
          load_ckpt_async use_legacy use_legacy_format pretrained_model_dir balanced_load reshard_worker_num \
          remove_redundancy do_eval eval_step_interval eval_epoch_interval ignore_data_skip data_skip_steps profile \
          profile_start_step profile_stop_step init_start_profile profile_communication profile_memory \
          profile_rank_ids profile_pipeline profile_level profiler_level mstx profile_output with_stack \
          data_simplification layer_scale layer_decay lr_scale lr_scale_factor micro_batch_interleave_num \
          remote_save_url save_file exclude_cann_cpu train_precision_sync infer_precision_sync \
          postprocess_use_numpy use_skip_data_by_global_norm use_checkpoint_health_monitor use_graceful_exit \
          tensorboard grouped_lr_schedule swap_config auto_tune filepath_prefix autotune_per_step eval_callbacks \
          processor trainer model runner_config runner_wrapper optimizer lr_schedule train_dataset \
          train_dataset_task eval_dataset eval_dataset_task context parallel_config parallel recompute_config \
          moe_config callbacks metric monitor_config checkpoint pipeline enable_check_overflow device_num device_id \
          local_rank infer generation train_dataset_dir eval_dataset_dir",
    ),
    (
        "runner_config",
        "\
          epochs batch_size sink_mode sink_size gradient_accumulation_steps num_classes stop_step image_size \
          initial_epoch initial_step has_trained_epoches has_trained_steps sink_per_epoch sink_steps origin_epochs \
          global_batch_size mini_batch_size step_scale",
    ),
    (
        "parallel_config",
        "\
          data_parallel model_parallel pipeline_stage context_parallel context_parallel_algo ulysses_degree_in_cp \
          expert_parallel micro_batch_num seq_split_num use_seq_parallel optimizer_shard gradient_aggregation_group \
          vocab_emb_dp mem_coeff expert_model_parallel pp_interleave_num recompute expert_exchange \
          expert_exchange_factor",
    ),
    (
        "parallel",
        "\
          parallel_mode full_batch dataset_strategy search_mode enable_parallel_optimizer gradients_mean \
          enable_alltoall strategy_ckpt_save_file strategy_ckpt_config parallel_optimizer_config pipeline_config \
          loss_repeated_mean auto_pipeline device_num communi_parallel_mode optimizer_weight_shard_size \
          parallel_optimizer_threshold",
    ),
    (
        "parallel.strategy_ckpt_config",
        "\
          save_file only_trainable_params",
    ),
    (
        "parallel.parallel_optimizer_config",
        "\
          gradient_accumulation_shard parallel_optimizer_threshold optimizer_weight_shard_size",
    ),
    (
        "parallel.pipeline_config",
        "\
          pipeline_interleave pipeline_scheduler",
    ),
    (
        "recompute_config",
        "\
          recompute select_recompute select_comm_recompute parallel_optimizer_comm_recompute mp_comm_recompute \
          recompute_slice_activation select_recompute_exclude select_comm_recompute_exclude",
    ),
    (
        "swap_config",
        "\
          swap default_prefetch layer_swap op_swap",
    ),
    (
        "moe_config",
        "\
          expert_num capacity_factor aux_loss_factor num_experts_chosen expert_group_size group_wise_a2a \
          comp_comm_parallel comp_comm_parallel_degree save_token_distribution cur_layer enable_cold_hot_expert \
          update_step hot_expert_num cold_token_percent moe_module_name routing_policy norm_topk_prob enable_sdrop \
          use_fused_ops_topkrouter router_dense_type shared_expert_num use_shared_expert_gating max_router_load \
          topk_method topk_group n_group first_k_dense_replace moe_intermediate_size routed_scaling_factor \
          aux_loss_types aux_loss_factors z_loss_factor balance_via_topk_bias topk_bias_update_rate \
          use_allgather_dispatcher moe_shared_expert_overlap expert_model_parallel use_gating_sigmoid \
          enable_deredundency npu_nums_per_device use_gmm enable_gmm_safe_tokens use_fused_ops_permute \
          callback_moe_droprate dispatch_global_max_bs ep_extend_tp",
    ),
    (
        "context",
        "\
          mode device_target device_id max_device_memory max_call_depth mempool_block_size memory_optimize_level \
          save_graphs save_graphs_path jit_config ascend_config enable_graph_kernel graph_kernel_flags \
          affinity_cpu_list dataset_broadcast_opt_level runtime_num_threads enable_compile_cache compile_cache_path \
          deterministic save_dump_path jit_level infer_boost enable_reduce_precision variable_memory_max_size \
          memory_offload predict_precision_sync",
    ),
    (
        "context.jit_config",
        "\
          jit_level infer_boost exc_mode jit_syntax_level",
    ),
    (
        "context.ascend_config",
        "\
          precision_mode parallel_speed_up_json_path jit_compile atomic_clean_policy exception_dump",
    ),
    (
        "trainer",
        "\
          type model_name metric_name auto_register",
    ),
    (
        "model",
        "\
          model_config arch",
    ),
    (
        "model.arch",
        "\
          type auto_register",
    ),
    (
        "optimizer",
        "\
          type betas beta1 beta2 eps weight_decay learning_rate swap auto_register",
    ),
    (
        "grouped_lr_schedule",
        "\
          default grouped",
    ),
    (
        "lr_schedule",
        "\
          type learning_rate total_steps warmup_steps warmup_ratio warmup_epochs warmup_lr_init lr_end num_cycles \
          decay_steps decay_ratio power decay_start_steps decay_start_ratio keep_steps final_steps lr_end1 lr_end2 \
          t_max t_0 t_mult eta_min base_lr lr_scale auto_register",
    ),
    (
        "runner_wrapper",
        "\
          type scale_sense use_clip_grad max_grad_norm local_norm calculate_per_token_loss enable_check_overflow \
          sens auto_register",
    ),
    (
        "runner_wrapper.scale_sense",
        "\
          type loss_scale_value scale_factor scale_window",
    ),
    (
        "train_dataset",
        "\
          data_loader batch_size input_columns output_columns column_order construct_args_key num_parallel_workers \
          python_multiprocessing drop_remainder repeat numa_enable prefetch_size seed dynamic_batch eod_reset \
          eod_token_id token_monitor token_monitor_config divisor remainder transforms text_transforms tokenizer \
          max_source_length max_target_length ignore_pad_token_for_loss return_attention_mask gmask_id sop_id \
          eos_id auto_tune filepath_prefix autotune_per_step profile do_eval shuffle pad_token_id",
    ),
    (
        "train_dataset_task",
        "\
          type dataset_config",
    ),
    (
        "train_dataset.data_loader",
        "\
          type datasets_type sizes config shuffle column_names dataset_dir dataset_files num_samples num_shards \
          path dtype stride python_multiprocessing",
    ),
    (
        "train_dataset.data_loader.config",
        "\
          seq_length seed random_seed data_path train_data_path valid_data_path test_data_path split path_to_cache \
          num_dataset_builder_threads mmap_bin_files reset_position_ids reset_attention_mask eod_mask_loss \
          create_attention_mask create_compressed_eod_mask eod_pad_length compressed_eod_mask_length eod pad \
          drop_last_partial_validation_sequence add_extra_token_to_sequence tokenizer s3_cache_path",
    ),
    (
        "monitor_config",
        "\
          monitor_on dump_path target invert step_interval local_loss_format local_norm_format \
          device_local_norm_format device_local_loss_format optimizer_state_format weight_state_format \
          max_attention_logit_format throughput_baseline print_struct check_for_global_norm \
          global_norm_spike_threshold global_norm_spike_count_threshold stable_rank_config health_checkpoint \
          embedding_local_norm_threshold save_checkpoint_steps",
    ),
    (
        "tensorboard",
        "\
          tensorboard_dir tensorboard_queue_size log_loss_scale_to_tensorboard log_timers_to_tensorboard \
          log_expert_load_to_tensorboard",
    ),
    (
        "callbacks.CheckpointMonitor",
        "\
          type prefix directory save_checkpoint_steps save_checkpoint_seconds keep_checkpoint_max \
          keep_checkpoint_per_n_minutes integrated_save save_network_params save_trainable_params async_save \
          saved_network append_info enc_key enc_mode exception_save global_batch_size checkpoint_format \
          remove_redundancy embedding_local_norm_threshold use_checkpoint_health_monitor health_ckpts_record_dir \
          save_optimizer runtime_num_threads",
    ),
    (
        "callbacks.MFLossMonitor",
        "\
          type learning_rate per_print_times micro_batch_num micro_batch_interleave_num origin_epochs dataset_size \
          initial_epoch initial_step global_batch_size gradient_accumulation_steps check_for_nan_in_loss_and_grad \
          calculate_per_token_loss print_separate_loss",
    ),
    (
        "model.model_config",
        "\
          type model_type architectures auto_register num_layers num_hidden_layers hidden_size num_attention_heads \
          num_heads n_kv_heads num_key_value_heads num_query_groups intermediate_size ffn_hidden_size multiple_of \
          ffn_dim_multiplier head_dim kv_channels vocab_size seq_length max_position_embeddings \
          max_position_embedding rms_norm_eps layernorm_epsilon normalization add_bias_linear qkv_has_bias \
          attention_bias hidden_act gated_linear_unit qk_layernorm use_qk_norm position_embedding_type \
          extend_method rope_theta theta rotary_base rope_scaling scaling_factor partial_rotary_factor \
          tie_word_embeddings untie_embeddings_and_output_weights hidden_dropout attention_dropout params_dtype \
          param_init_type compute_dtype layernorm_compute_dtype softmax_compute_dtype rotary_dtype \
          fp32_residual_connection init_method_std initializer_range param_init_std_rules calculate_per_token_loss \
          chunk_loss_num pad_token_id ignore_token_id offset pp_interleave_num use_flash_attention \
          use_ring_attention",
    ),
];

/// Keys of `model.model_config` that change how a device computes, how text is generated or how a file is laid out,
/// and nothing in what a pretraining step computes.
const MODEL_IDLE: &str = "\
    batch_size checkpoint_name_or_path bos_token_id eos_token_id unk_token_id user_token_id assistant_token_id \
    mask_token_id gmask_token_id repetition_penalty max_decode_length max_length max_new_tokens min_length \
    min_new_tokens top_k top_p do_sample temperature use_past use_past_shard use_cache is_dynamic is_flexible_shape \
    is_sample_acceleration block_size num_blocks num_block use_paged_attention use_kvcache_op \
    use_incre_flash_attention use_prompt_flash_attention use_flash_attention use_attn_mask_compression \
    use_rope_slice use_attention_mask input_layout sparse_mode mask_func_type fused_norm \
    fused_rms_norm rmsnorm_compute_2d use_fused_rope apply_rope_fusion use_fused_swiglu bias_swiglu_fusion \
    bias_dropout_fusion use_fused_ops_topkrouter use_fused_ops_permute moe_permute_fusion use_fused_mla qkv_concat \
    mlp_concat use_contiguous_weight_layout fine_grain_interleave parallel_optimizer disable_lazy_inline \
    compute_in_2d return_extra_loss return_hidden_states monitor_config dataset_config parallel_config num_labels \
    quant_config quantization_config llm_backend chunk_prefill pipeline_stage print_separate_loss \
    track_max_attention_logit pre_process post_process attn_reduce_scatter attn_allgather attn_allreduce \
    ffn_reduce_scatter ffn_allgather ffn_allreduce use_alltoall dispatch_global_max_bs npu_nums_per_device \
    vocab_emb_dp lm_head_dp seq_parallel micro_batch_interleave_num mindformers_version rl_config _name_or_path \
    tokenizer_class is_encoder_decoder is_reward_model pretrain_seqlen transformers_version torch_dtype dtype \
    model_architecture moe_config swap layer_swap op_swap default_prefetch mask_type unused_token_id pretraining_tp \
    max_window_layers rope_type router_aux_loss_coef init_method output_layer_init_method data_parallel \
    model_parallel context_parallel expert_parallel micro_batch_num use_seq_parallel gradient_aggregation_group \
    seq_split_num recompute select_recompute parallel_optimizer_comm_recompute select_comm_recompute \
    mp_comm_recompute recompute_slice_activation select_recompute_exclude select_comm_recompute_exclude \
    use_rotary_position_ids rotary_cos_format use_rope_scaling rotary_seq_len_interpolation_factor \
    context_parallel_algo ulysses_degree_in_cp model_name use_final_layernorm embd_pdrop_type";

/// Keys of a Hugging Face config.json that describe the file, generation or other tasks.
const HF_BOOKKEEPING: &str = "\
    _name_or_path _attn_implementation attn_implementation add_cross_attention auto_map bos_token_id \
    chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample dtype \
    early_stopping encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task \
    forced_bos_token_id forced_eos_token_id id2label is_decoder is_encoder_decoder label2id length_penalty \
    max_length max_window_layers min_length n_ctx no_repeat_ngram_size num_beam_groups num_beams \
    num_return_sequences output_attentions output_hidden_states output_scores prefix pretraining_tp problem_type \
    pruned_heads remove_invalid_values reorder_and_upcast_attn repetition_penalty return_dict \
    return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss \
    tie_encoder_decoder tokenizer_class top_k top_p torch_dtype torchscript transformers_version typical_p \
    use_bfloat16 use_cache bad_words_ids begin_suppress_tokens summary_activation summary_first_dropout \
    summary_proj_to_labels summary_type summary_use_proj unk_token_id pad_token gradient_checkpointing \
    scale_attn_by_inverse_layer_idx ignore_keys_at_rope_validation";

/// The known keys of the section at `path`; none if the section is not in the table.
pub(super) fn keys(path: &str) -> Vec<&'static str> {
    SECTIONS.iter().find(|(p, _)| *p == path).map_or(vec![], |(_, keys)| keys.split_whitespace().collect())
}

/// The keys of `model.model_config` without an effect.
pub(super) fn model_idle() -> impl Iterator<Item = &'static str> {
    MODEL_IDLE.split_whitespace()
}

/// True for a key of a config.json that nobody expects to have an effect.
pub(super) fn is_hf_bookkeeping(key: &str) -> bool {
    HF_BOOKKEEPING.split_whitespace().any(|k| k == key)
}

/// Sections other than `path` that know `key`, at most two, in words.
pub(super) fn homes(key: &str, path: &str) -> Vec<String> {
    // A key called `type` or `seed` lives in too many places for the hint to help.
    if matches!(key, "type" | "config") {
        return vec![];
    }
    let in_section = SECTIONS.iter().filter(|(p, keys)| *p != path && keys.split_whitespace().any(|k| k == key));
    in_section.map(|(p, _)| if p.is_empty() { "the top level".into() } else { format!("`{p}`") }).take(2).collect()
}

/// The candidate most like `word`, if one is like it enough to be what was meant.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let best = candidates.into_iter().map(|c| (strsim::damerau_levenshtein(&lower, &c.to_lowercase()), c)).min()?;
    // One slip in three letters: `warmup_step` for `warmup_steps`, but not `mode` for `seed`.
    (best.0 <= (word.chars().count() / 3).clamp(1, 4)).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_are_close_or_absent() {
        assert_eq!(nearest("warmup_step", ["warmup_steps", "warmup_ratio"]), Some("warmup_steps"));
        assert_eq!(nearest("CheckpointMonitr", ["CheckpointMonitor", "MFLossMonitor"]), Some("CheckpointMonitor"));
        assert_eq!(nearest("colour", ["epochs", "batch_size"]), None);
        assert_eq!(homes("max_grad_norm", "optimizer"), ["`runner_wrapper`"]);
        assert_eq!(homes("seed", "context"), ["the top level", "`train_dataset`"]);
    }
}
