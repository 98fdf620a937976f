// RUN: not athanor opt --passes optimizer %s 2>&1 | FileCheck %s
// CHECK: P0202
// CHECK: in parts of 3 rows
module attributes {nn.run = {optimizer = {
    type = "Muon", momentum = 0.95, nesterov = true, coefficients = [[2.0, -1.5, 0.5]], norm_eps = 1.0e-7,
    adamw = {beta1 = 0.9, beta2 = 0.95, eps = 1.0e-8, weight_decay = 0.1},
    weights = [{name = "w", parts = [{rows = 3, scale = 0.5}]}]}}} {
  func.func @micro(%w: tensor<4x8xf32> {nn.name = "w", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true})
      -> (tensor<f32> {nn.name = "loss"}, tensor<4x8xf32> {nn.name = "grad.w"}) {
    %0 = "nn.constant"() {value = 1.0 : f64} : () -> tensor<f32>
    %1 = "nn.exp"(%w) : (tensor<4x8xf32>) -> tensor<4x8xf32>
    return %0, %1 : tensor<f32>, tensor<4x8xf32>
  }
}
