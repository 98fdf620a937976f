// RUN: athanor opt --passes optimizer %s | FileCheck %s

// A matrix has means of rows and columns instead of second moments; a vector has the moments.
// CHECK-LABEL: func.func @update(
// CHECK-DAG: tensor<4xf32> {nn.name = "exp_avg_sq_row_w", nn.role = "moment"}
// CHECK-DAG: tensor<8xf32> {nn.name = "exp_avg_insta_col_w", nn.role = "moment"}
// CHECK-DAG: tensor<3xf32> {nn.name = "exp_avg_sq_b", nn.role = "moment"}
// CHECK-DAG: {nn.name = "beta2", nn.role = "input"}
// CHECK: "nn.reduce"(%{{.*}}) {dims = array<i64: 1>, kind = "sum"} : (tensor<4x8xf32>) -> tensor<4xf32>
// CHECK: "nn.reduce"(%{{.*}}) {dims = array<i64: 0>, kind = "sum"} : (tensor<4x8xf32>) -> tensor<8xf32>
// CHECK-NOT: nn.adam_w
module attributes {nn.run = {optimizer = {
    type = "Came", beta1 = 0.9, beta3 = 0.99, decay_rate = 0.8, eps = [1.0e-30, 1.0e-3, 1.0e-16], clip_threshold = 1.0,
    weight_decay = 0.0, scale_parameter = false}}} {
  func.func @micro(
      %w: tensor<4x8xf32> {nn.name = "w", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true},
      %b: tensor<3xf32> {nn.name = "b", nn.role = "weight", nn.init = {constant = 0.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}, tensor<4x8xf32> {nn.name = "grad.w"}, tensor<3xf32> {nn.name = "grad.b"}) {
    %0 = "nn.constant"() {value = 1.0 : f64} : () -> tensor<f32>
    %1 = "nn.exp"(%w) : (tensor<4x8xf32>) -> tensor<4x8xf32>
    %2 = "nn.exp"(%b) : (tensor<3xf32>) -> tensor<3xf32>
    return %0, %1, %2 : tensor<f32>, tensor<4x8xf32>, tensor<3xf32>
  }
}
