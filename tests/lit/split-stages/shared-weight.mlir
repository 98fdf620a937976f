// RUN: athanor opt --passes autodiff,optimizer,split-stages %s | FileCheck %s

// Both layers have one weight: each stage has it, sums up its own part of the gradient, and takes the step of the sum. The first
// stage alone counts its squares.
// CHECK-LABEL: func.func @stage0.micro0(
// CHECK: nn.name = "grad.a"
// CHECK: "nn.handover"
// CHECK: "nn.add"(%{{.*}}, %{{.*}}) : (tensor<4x4xf32>, tensor<4x4xf32>) -> tensor<4x4xf32>
// CHECK-NOT: tensor<4x4xf32>, tensor<4x4xf32>) -> tensor<4x4xf32>
// CHECK-LABEL: func.func @stage0.update(
// CHECK: %[[SUM:.*]] = "nn.sum_ends"(%{{.*}}) {axes = "pp", ranks = 2 : i64} : (tensor<4x4xf32>) -> tensor<4x4xf32>
// CHECK: "nn.sum_squares"(%[[SUM]])
// CHECK: "nn.adam_w"(%{{.*}}, %[[SUM]],
// CHECK-LABEL: func.func @stage1.micro0(
// CHECK: nn.name = "grad.a"
// CHECK-LABEL: func.func @stage1.update(
// CHECK: %[[SUM:.*]] = "nn.sum_ends"
// CHECK-NOT: "nn.sum_squares"
// CHECK: "nn.adam_w"(%{{.*}}, %[[SUM]],
module attributes {nn.level = "model", nn.mesh = [["pp", 2]], nn.run = {
    accumulation = 2 : i64, pipeline = {layers = [[1 : i64, 1 : i64]], schedule = "1f1b"}}} {
  func.func @forward(
      %x: tensor<2x4xf32> {nn.name = "x", nn.role = "input"},
      %a: tensor<4x4xf32> {nn.name = "a", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = "nn.einsum"(%x, %a) {spec = "bh,kh->bk"} : (tensor<2x4xf32>, tensor<4x4xf32>) -> tensor<2x4xf32> loc("model.layers.0")
    %1 = "nn.einsum"(%0, %a) {spec = "bh,kh->bk"} : (tensor<2x4xf32>, tensor<4x4xf32>) -> tensor<2x4xf32> loc("model.layers.1")
    %2 = "nn.reduce"(%1) {kind = "sum", dims = array<i64: 0, 1>} : (tensor<2x4xf32>) -> tensor<f32> loc("loss")
    return %2 : tensor<f32>
  }
}
