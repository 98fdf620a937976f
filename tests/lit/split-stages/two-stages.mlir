// RUN: athanor opt --passes autodiff,optimizer,split-stages %s | FileCheck %s
// RUN: athanor opt --passes autodiff,optimizer,split-stages %s | athanor opt - --passes dce | FileCheck %s

// A product for each of two layers. The first layer's result goes to the second stage, its gradient comes back; each stage has
// its own weight, and the squares of both gradients are summed over pp.
// CHECK-LABEL: func.func @stage0.micro0(
// CHECK: %[[Y:.*]] = "nn.einsum"(%{{.*}}, %{{.*}}) {spec = "bh,kh->bk"}
// CHECK: %[[G:.*]] = "nn.handover"(%[[Y]]) {last = false} : (tensor<2x4xf32>) -> tensor<2x4xf32>
// CHECK: "nn.einsum"({{.*}}%[[G]]
// CHECK-LABEL: func.func @stage0.update(
// CHECK: %[[OWN:.*]] = "nn.sum_squares"(%{{.*}}) : (tensor<4x4xf32>) -> tensor<f64>
// CHECK: "nn.all_reduce"(%[[OWN]]) {axes = "pp", kind = "sum", ranks = 2 : i64}
// CHECK-LABEL: func.func @stage1.micro0(
// CHECK: nn.name = "b"
// CHECK: nn.name = "handed.0", nn.role = "handed"
// CHECK: %[[Z:.*]] = "nn.einsum"(%{{.*}}, %{{.*}}) {spec = "bh,kh->bk"}
// CHECK: %[[TURN:.*]] = "nn.handover"(%[[Z]]) {last = true} : (tensor<2x4xf32>) -> tensor<2x4xf32>
// CHECK: "nn.reduce"(%[[TURN]])
// CHECK-LABEL: func.func @stage1.update(
module attributes {nn.level = "model", nn.mesh = [["pp", 2]], nn.run = {
    accumulation = 2 : i64, pipeline = {layers = [[1 : i64, 1 : i64]], schedule = "1f1b"}}} {
  func.func @forward(
      %x: tensor<2x4xf32> {nn.name = "x", nn.role = "input"},
      %a: tensor<4x4xf32> {nn.name = "a", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false},
      %b: tensor<4x4xf32> {nn.name = "b", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = "nn.einsum"(%x, %a) {spec = "bh,kh->bk"} : (tensor<2x4xf32>, tensor<4x4xf32>) -> tensor<2x4xf32> loc("model.layers.0")
    %1 = "nn.einsum"(%0, %b) {spec = "bh,kh->bk"} : (tensor<2x4xf32>, tensor<4x4xf32>) -> tensor<2x4xf32> loc("model.layers.1")
    %2 = "nn.reduce"(%1) {kind = "sum", dims = array<i64: 0, 1>} : (tensor<2x4xf32>) -> tensor<f32> loc("loss")
    return %2 : tensor<f32>
  }
}
