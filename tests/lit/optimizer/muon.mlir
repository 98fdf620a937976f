// RUN: athanor opt --passes optimizer %s | FileCheck %s

// Muon takes the matrices it is told to: one with more rows than columns is multiplied from the right, experts are a batch, and
// rows in two parts are orthogonalised apart. Operands are bf16, the last sum of an iteration f32. The vector is AdamW's.
// CHECK-LABEL: func.func @update(
// CHECK-DAG: {nn.name = "muon_m.w", nn.role = "moment"}
// CHECK-DAG: {nn.name = "muon_m.e", nn.role = "moment"}
// CHECK-DAG: {nn.name = "adam_v.b", nn.role = "moment"}
// CHECK: "nn.sum_squares"
// CHECK: %[[GRAM:.*]] = "nn.einsum"(%[[X:[0-9]+]], %[[X]]) {spec = "ji,jk->ik"} : {{.*}} -> tensor<4x4xbf16>
// CHECK: "nn.einsum"(%[[GRAM]], %[[GRAM]]) {spec = "ij,jk->ik"} : {{.*}} -> tensor<4x4xf32>
// CHECK: "nn.einsum"(%[[X]], %{{.*}}) {spec = "ij,jk->ik"} : {{.*}} -> tensor<8x4xf32>
// CHECK: "nn.slice"(%[[ROWS:[0-9]+]]) {dim = 2 : i64, len = 1 : i64, start = 0 : i64} : (tensor<2x2x3x8xf32>)
// CHECK: "nn.einsum"(%{{.*}}) {spec = "eij,ekj->eik"} : {{.*}} -> tensor<2x2x2xbf16>
// CHECK: "nn.slice"(%[[ROWS]]) {dim = 2 : i64, len = 2 : i64, start = 1 : i64}
// CHECK: "nn.einsum"(%{{.*}}) {spec = "eij,ekj->eik"} : {{.*}} -> tensor<2x4x4xbf16>
// CHECK: "nn.concat"
// CHECK: "nn.adam_w"
module attributes {nn.run = {optimizer = {
    type = "Muon", momentum = 0.95, nesterov = true, coefficients = [[2.0, -1.5, 0.5]], norm_eps = 1.0e-7,
    adamw = {beta1 = 0.9, beta2 = 0.95, eps = 1.0e-8, weight_decay = 0.1},
    weights = [{name = "w", parts = [{rows = 8, scale = 0.5}]},
               {name = "e", parts = [{rows = 1, scale = 0.5}, {rows = 2, scale = 0.5}]}]}}} {
  func.func @micro(
      %w: tensor<8x4xf32> {nn.name = "w", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true},
      %e: tensor<2x6x8xf32> {nn.name = "e", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true},
      %b: tensor<3xf32> {nn.name = "b", nn.role = "weight", nn.init = {constant = 0.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}, tensor<8x4xf32> {nn.name = "grad.w"}, tensor<2x6x8xf32> {nn.name = "grad.e"},
          tensor<3xf32> {nn.name = "grad.b"}) {
    %0 = "nn.constant"() {value = 1.0 : f64} : () -> tensor<f32>
    %1 = "nn.exp"(%w) : (tensor<8x4xf32>) -> tensor<8x4xf32>
    %2 = "nn.exp"(%e) : (tensor<2x6x8xf32>) -> tensor<2x6x8xf32>
    %3 = "nn.exp"(%b) : (tensor<3xf32>) -> tensor<3xf32>
    return %0, %1, %2, %3 : tensor<f32>, tensor<8x4xf32>, tensor<2x6x8xf32>, tensor<3xf32>
  }
}
