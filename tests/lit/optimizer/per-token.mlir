// RUN: athanor opt --passes optimizer %s | FileCheck %s

// Summed losses: norm and gradients are divided by the tokens of the step, which must be given.
// CHECK-LABEL: func.func @update(
// CHECK: %[[TOKENS:.*]]: tensor<f32> {nn.name = "token_count", nn.role = "input"}
// CHECK: %[[SMALL:.*]] = "nn.constant"() {value = 1.000000e-08 : f64}
// CHECK: %[[SUM:.*]] = "nn.add"(%[[TOKENS]], %[[SMALL]])
// CHECK: %[[PER:.*]] = "nn.recip"(%[[SUM]])
// CHECK: %[[NORM:.*]] = "nn.mul"(%{{.*}}, %[[PER]])
// CHECK: %[[MAX:.*]] = "nn.max"(%[[NORM]],
// CHECK: %[[CLIP:.*]] = "nn.div"(%{{.*}}, %[[MAX]])
// CHECK: %[[SCALE:.*]] = "nn.mul"(%[[CLIP]], %[[PER]])
// CHECK: "nn.adam_w"(%{{[^)]*}}%[[SCALE]])
module attributes {nn.run = {per_token_loss = true, max_grad_norm = 1.0}} {
  func.func @micro(%w: tensor<3xf32> {nn.name = "w", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true})
      -> (tensor<f32> {nn.name = "loss_sum"}, tensor<3xf32> {nn.name = "grad.w"}) {
    %0 = "nn.constant"() {value = 1.0 : f64} : () -> tensor<f32>
    %1 = "nn.exp"(%w) : (tensor<3xf32>) -> tensor<3xf32>
    return %0, %1 : tensor<f32>, tensor<3xf32>
  }
}
