// RUN: athanor opt --passes autodiff %s | FileCheck %s

// Gradients are those of the loss times the scale, which is given with each step; the loss itself is not scaled.
// CHECK-LABEL: func.func @micro(
// CHECK: %[[SCALE:.*]]: tensor<f32> {nn.name = "loss_scale", nn.role = "input"}
// CHECK: %[[LOSS:.*]] = "nn.reduce"
// CHECK: %[[ONE:.*]] = "nn.constant"() {value = 1.000000e+00 : f64} : () -> tensor<f32>
// CHECK: %[[SEED:.*]] = "nn.mul"(%[[ONE]], %[[SCALE]])
// CHECK: "nn.broadcast"(%[[SEED]])
// CHECK: return %[[LOSS]],
module attributes {nn.level = "model", nn.run = {loss_scale = {type = "dynamic", value = 8.0, factor = 2.0, window = 10}}} {
  func.func @forward(%w: tensor<3xf32> {nn.name = "w", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = "nn.exp"(%w) : (tensor<3xf32>) -> tensor<3xf32>
    %1 = "nn.reduce"(%0) {kind = "sum", dims = array<i64: 0>} : (tensor<3xf32>) -> tensor<f32>
    return %1 : tensor<f32>
  }
}
