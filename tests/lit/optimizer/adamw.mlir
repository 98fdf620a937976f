// RUN: athanor opt --passes optimizer %s | FileCheck %s

// Weights decay as their role says; the norm of all gradients clips each; gradients of the micro-batches of a step are
// summed in place, by the parameter and the result of one name.
// CHECK-LABEL: func.func @micro(
// CHECK-DAG: tensor<3xf32> {nn.name = "grad.w", nn.role = "grad"}
// CHECK: "nn.add"
// CHECK-LABEL: func.func @update(
// CHECK-DAG: {nn.name = "adam_m.w", nn.role = "moment"}
// CHECK-DAG: {nn.name = "adam_v.w", nn.role = "moment"}
// CHECK-DAG: {nn.name = "lr", nn.role = "input"}
// CHECK: tensor<f32> {nn.name = "grad_norm"}) {
// CHECK: "nn.sum_squares"
// CHECK: "nn.sqrt"
// CHECK: "nn.max"
// CHECK: "nn.div"
// CHECK: "nn.adam_w"{{.*}} {beta1 = 9.000000e-01 : f64, beta2 = 0.94999999999999996 : f64, decay = 1.000000e-01 : f64, eps = 1.000000e-08 : f64}
// CHECK: "nn.adam_w"{{.*}} decay = 0.000000e+00 : f64
module attributes {nn.run = {accumulation = 2, max_grad_norm = 1.0,
                             optimizer = {type = "AdamW", beta1 = 0.9, beta2 = 0.95, eps = 1.0e-8, weight_decay = 0.1}}} {
  func.func @micro(
      %w: tensor<3xf32> {nn.name = "w", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true},
      %b: tensor<2xf32> {nn.name = "b", nn.role = "weight", nn.init = {constant = 0.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}, tensor<3xf32> {nn.name = "grad.w"}, tensor<2xf32> {nn.name = "grad.b"}) {
    %0 = "nn.constant"() {value = 1.0 : f64} : () -> tensor<f32>
    %1 = "nn.exp"(%w) : (tensor<3xf32>) -> tensor<3xf32>
    %2 = "nn.exp"(%b) : (tensor<2xf32>) -> tensor<2xf32>
    return %0, %1, %2 : tensor<f32>, tensor<3xf32>, tensor<2xf32>
  }
}
