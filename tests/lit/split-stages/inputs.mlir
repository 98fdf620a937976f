// RUN: athanor opt --passes autodiff,optimizer,split-stages %s | FileCheck %s

// What depends on inputs alone is computed where it is read: the second stage has x itself and is sent the product only.
// CHECK-LABEL: func.func @stage0.micro0(
// CHECK: "nn.handover"(%{{[a-z0-9]*}}) {last = false} : (tensor<2x4xf32>) -> tensor<2x4xf32>
// CHECK-LABEL: func.func @stage1.micro0(
// CHECK: nn.name = "x", nn.role = "input"
// CHECK: "nn.tanh"
module attributes {nn.level = "model", nn.mesh = [["pp", 2]], nn.run = {
    accumulation = 2 : i64, pipeline = {layers = [[1 : i64, 1 : i64]], schedule = "1f1b"}}} {
  func.func @forward(
      %x: tensor<2x4xf32> {nn.name = "x", nn.role = "input"},
      %a: tensor<4x4xf32> {nn.name = "a", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false},
      %b: tensor<4x4xf32> {nn.name = "b", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = "nn.einsum"(%x, %a) {spec = "bh,kh->bk"} : (tensor<2x4xf32>, tensor<4x4xf32>) -> tensor<2x4xf32> loc("model.layers.0")
    %1 = "nn.einsum"(%0, %b) {spec = "bh,kh->bk"} : (tensor<2x4xf32>, tensor<4x4xf32>) -> tensor<2x4xf32> loc("model.layers.1")
    %3 = "nn.tanh"(%x) : (tensor<2x4xf32>) -> tensor<2x4xf32> loc("model.layers.0")
    %4 = "nn.add"(%1, %3) : (tensor<2x4xf32>, tensor<2x4xf32>) -> tensor<2x4xf32> loc("model.layers.1")
    %2 = "nn.reduce"(%4) {kind = "sum", dims = array<i64: 0, 1>} : (tensor<2x4xf32>) -> tensor<f32> loc("loss")
    return %2 : tensor<f32>
  }
}
