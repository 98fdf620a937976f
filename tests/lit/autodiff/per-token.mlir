// RUN: athanor opt --passes autodiff %s | FileCheck %s

// When losses are divided by the tokens of the whole step, it is their sum that is differentiated, and counts in full.
// CHECK-LABEL: func.func @micro(
// CHECK: tensor<f32> {nn.name = "loss_sum"}
// CHECK: tensor<f32> {nn.name = "token_count"}
// CHECK: %[[SEED:.*]] = "nn.constant"() {value = 1.000000e+00 : f64} : () -> tensor<f32>
// CHECK: %[[DW:.*]] = "nn.broadcast"(%[[SEED]])
// CHECK: return %{{.*}}, %{{.*}}, %[[DW]]
module attributes {nn.level = "model", nn.run = {accumulation = 4, per_token_loss = true}} {
  func.func @forward(%w: tensor<4xf32> {nn.name = "w", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss_sum"}, tensor<f32> {nn.name = "token_count"}) {
    %0 = "nn.reduce"(%w) {kind = "sum", dims = array<i64: 0>} : (tensor<4xf32>) -> tensor<f32>
    %1 = "nn.constant"() {value = 4.0 : f64} : () -> tensor<f32>
    return %0, %1 : tensor<f32>, tensor<f32>
  }
}
