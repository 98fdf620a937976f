// RUN: athanor opt --passes optimizer %s | FileCheck %s

// A scaled loss: the norm is a program of its own, which tells whether the step can be taken; @update gets it, and divides
// gradients by the scale.
// CHECK-LABEL: func.func @grad_norm(
// CHECK: {nn.name = "grad.w", nn.role = "grad"}
// CHECK: %[[SCALE:.*]]: tensor<f32> {nn.name = "loss_scale", nn.role = "input"}
// CHECK: %[[UNIT:.*]] = "nn.recip"(%[[SCALE]])
// CHECK: "nn.sum_squares"
// CHECK: %[[NORM:.*]] = "nn.mul"(%{{.*}}, %[[UNIT]])
// CHECK: return %[[NORM]]
// CHECK-LABEL: func.func @update(
// CHECK: %[[GIVEN:.*]]: tensor<f32> {nn.name = "grad_norm", nn.role = "grad"}
// CHECK-NOT: nn.sum_squares
// CHECK: %[[UNIT:.*]] = "nn.recip"
// CHECK: "nn.max"(%[[GIVEN]],
// CHECK: %[[CLIP:.*]] = "nn.div"
// CHECK: %[[FACTOR:.*]] = "nn.mul"(%[[CLIP]], %[[UNIT]])
// CHECK: "nn.adam_w"(%{{[^)]*}}%[[FACTOR]])
module attributes {nn.run = {max_grad_norm = 1.0, loss_scale = {type = "fixed", value = 128.0}}} {
  func.func @micro(%w: tensor<4x8xf32> {nn.name = "w", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true})
      -> (tensor<f32> {nn.name = "loss"}, tensor<4x8xf32> {nn.name = "grad.w"}) {
    %0 = "nn.constant"() {value = 1.0 : f64} : () -> tensor<f32>
    %1 = "nn.exp"(%w) : (tensor<4x8xf32>) -> tensor<4x8xf32>
    return %0, %1 : tensor<f32>, tensor<4x8xf32>
  }
}
