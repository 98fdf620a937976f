// RUN: athanor opt --passes autodiff,optimizer,split-stages %s | FileCheck %s

// The third layer reads what the first one made: the second stage passes it on, and its gradient back.
// CHECK-LABEL: func.func @stage0.micro0(
// CHECK: "nn.handover"
// CHECK-LABEL: func.func @stage1.micro0(
// CHECK: nn.name = "handed.0"
// CHECK: "nn.einsum"
// CHECK: "nn.handover"(%{{.*}}, %{{.*}}) {last = false} : (tensor<2x4xf32>, tensor<2x4xf32>) -> (tensor<2x4xf32>, tensor<2x4xf32>)
// CHECK-LABEL: func.func @stage2.micro0(
// CHECK: nn.name = "handed.1"
module attributes {nn.level = "model", nn.mesh = [["pp", 3]], nn.run = {
    accumulation = 2 : i64, pipeline = {layers = [[1 : i64, 1 : i64, 1 : i64]], schedule = "1f1b"}}} {
  func.func @forward(
      %x: tensor<2x4xf32> {nn.name = "x", nn.role = "input"},
      %a: tensor<4x4xf32> {nn.name = "a", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false},
      %b: tensor<4x4xf32> {nn.name = "b", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = "nn.einsum"(%x, %a) {spec = "bh,kh->bk"} : (tensor<2x4xf32>, tensor<4x4xf32>) -> tensor<2x4xf32> loc("model.layers.0")
    %1 = "nn.einsum"(%0, %b) {spec = "bh,kh->bk"} : (tensor<2x4xf32>, tensor<4x4xf32>) -> tensor<2x4xf32> loc("model.layers.1")
    %3 = "nn.mul"(%0, %1) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32> loc("model.layers.2")
    %2 = "nn.reduce"(%3) {kind = "sum", dims = array<i64: 0, 1>} : (tensor<2x4xf32>) -> tensor<f32> loc("loss")
    return %2 : tensor<f32>
  }
}
