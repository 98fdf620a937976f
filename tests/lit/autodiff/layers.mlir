// RUN: athanor opt --passes autodiff %s | FileCheck %s

// Layers have gradients of their own: rotation backwards, attention from what forward kept, rows of a table by id, and
// the loss from its log-sum-exp.
// CHECK-LABEL: func.func @micro(
// CHECK: %[[X:.*]] = "nn.rms_norm"
// CHECK: %[[ROT:.*]] = "nn.rope"({{.*}}) {interleaved = false, inverse = false}
// CHECK: %[[ATT:.*]]:2 = "nn.attention"(%[[ROT]], %[[ROT]], %[[ROT]])
// CHECK: %[[CE:.*]]:2 = "nn.cross_entropy"
// CHECK: "nn.cross_entropy_grad"
// CHECK: %[[D:.*]]:3 = "nn.attention_grad"({{.*}}%[[ATT]]#0, %[[ATT]]#1
// CHECK-SAME: {alibi = false, causal = true, scale = 5.000000e-01 : f64}
// CHECK: %[[DQK:.*]] = "nn.add"(%[[D]]#0, %[[D]]#1)
// CHECK-NEXT: "nn.add"(%[[DQK]], %[[D]]#2)
// CHECK: "nn.rope"({{.*}}) {interleaved = false, inverse = true}
// CHECK: %[[DN:.*]]:2 = "nn.rms_norm_grad"
// CHECK: %[[DT:.*]] = "nn.embed_grad"({{.*}}) {vocab = 5 : i64} : {{.*}} -> tensor<5x4xf32>
// CHECK: return %{{.*}}, %[[DT]], %[[DN]]#1
module attributes {nn.level = "model"} {
  func.func @forward(
      %ids: tensor<1x3xi32> {nn.name = "tokens", nn.role = "input"},
      %table: tensor<5x4xf32> {nn.name = "table", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true},
      %gain: tensor<4xf32> {nn.name = "gain", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = "nn.embed"(%ids, %table) : (tensor<1x3xi32>, tensor<5x4xf32>) -> tensor<1x3x4xf32>
    %1 = "nn.rms_norm"(%0, %gain) {eps = 1.0e-5 : f64} : (tensor<1x3x4xf32>, tensor<4xf32>) -> tensor<1x3x4xf32>
    %2 = "nn.reshape"(%1) : (tensor<1x3x4xf32>) -> tensor<1x3x1x4xf32>
    %cos, %sin = "nn.rope_table"() {inv_freq = array<f64: 1.0, 0.01>, scale = 1.0 : f64} : () -> (tensor<3x2xf32>, tensor<3x2xf32>)
    %3 = "nn.rope"(%2, %cos, %sin) {interleaved = false, inverse = false} : (tensor<1x3x1x4xf32>, tensor<3x2xf32>, tensor<3x2xf32>) -> tensor<1x3x1x4xf32>
    %4:2 = "nn.attention"(%3, %3, %3) {alibi = false, causal = true, scale = 0.5 : f64} : (tensor<1x3x1x4xf32>, tensor<1x3x1x4xf32>, tensor<1x3x1x4xf32>) -> (tensor<1x3x1x4xf32>, tensor<1x1x3xf32>)
    %5 = "nn.reshape"(%4#0) : (tensor<1x3x1x4xf32>) -> tensor<1x3x4xf32>
    %6:2 = "nn.cross_entropy"(%5, %ids) : (tensor<1x3x4xf32>, tensor<1x3xi32>) -> (tensor<1x3xf32>, tensor<1x3xf32>)
    %7 = "nn.reduce"(%6#0) {kind = "sum", dims = array<i64: 0, 1>} : (tensor<1x3xf32>) -> tensor<f32>
    return %7 : tensor<f32>
  }
}
