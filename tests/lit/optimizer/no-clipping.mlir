// RUN: athanor opt --passes optimizer %s | FileCheck %s

// Without a largest norm the norm is told and nothing is scaled; one micro-batch leaves @micro as it was.
// CHECK-LABEL: func.func @micro(
// CHECK-NOT: nn.add
// CHECK-LABEL: func.func @update(
// CHECK: %[[SQ:.*]] = "nn.sum_squares"(%arg1)
// CHECK: %[[ROOT:.*]] = "nn.sqrt"(%[[SQ]])
// CHECK: %[[NORM:.*]] = "nn.cast"(%[[ROOT]]) : (tensor<f64>) -> tensor<f32>
// CHECK-NOT: nn.div
// CHECK: %[[ONE:.*]] = "nn.constant"() {value = 1.000000e+00 : f64} : () -> tensor<f32>
// CHECK: "nn.adam_w"(%{{[^)]*}}%[[ONE]])
// CHECK: return %{{.*}}, %[[NORM]]
module attributes {nn.run = {accumulation = 1}} {
  func.func @micro(%w: tensor<3xf32> {nn.name = "w", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true})
      -> (tensor<f32> {nn.name = "loss"}, tensor<3xf32> {nn.name = "grad.w"}) {
    %0 = "nn.constant"() {value = 1.0 : f64} : () -> tensor<f32>
    %1 = "nn.exp"(%w) : (tensor<3xf32>) -> tensor<3xf32>
    return %0, %1 : tensor<f32>, tensor<3xf32>
  }
}
