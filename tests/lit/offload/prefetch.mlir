// RUN: athanor opt --passes autodiff,offload %s | FileCheck %s

// The tanh of layer 0 is an operator's result. It is back two ops before the first that reads it, and all read what came back.
// CHECK: values = 1 : i64}
// CHECK-LABEL: func.func @micro(
// CHECK: %[[H:.*]] = "nn.tanh"
// CHECK-NEXT: %[[HOST:.*]] = "nn.to_host"(%[[H]])
// CHECK: %[[BACK:.*]] = "nn.from_host"(%[[HOST]])
// CHECK-NEXT: "nn.einsum"
// CHECK-NEXT: "nn.einsum"
// CHECK-NEXT: "nn.einsum"({{.*}}%[[BACK]])
// CHECK-NOT: %[[H]]{{[,)]}}
// CHECK: "nn.square"(%[[BACK]])
// CHECK: return
module attributes {nn.level = "model", nn.run = {offload = {values = [
    {operators = [{layers = ["model.layers.0", "model.layers.1"], paths = ["mlp.silu"]},
                  {layers = ["model.layers.0"], paths = ["mlp.tanh"]}], prefetch = 2 : i64}]}}} {
  func.func @forward(
      %x: tensor<4x8xf32> {nn.name = "x", nn.role = "input"},
      %a: tensor<8x8xf32> {nn.name = "a", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false},
      %b: tensor<8x8xf32> {nn.name = "b", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false},
      %c: tensor<8x8xf32> {nn.name = "c", nn.role = "weight", nn.init = {constant = 1.0 : f64}, nn.decay = false})
      -> (tensor<f32> {nn.name = "loss"}) {
    %0 = "nn.einsum"(%x, %a) {spec = "bh,kh->bk"} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32> loc("model.layers.0.mlp")
    %1 = "nn.tanh"(%0) : (tensor<4x8xf32>) -> tensor<4x8xf32> loc("model.layers.0.mlp")
    %2 = "nn.einsum"(%1, %b) {spec = "bh,kh->bk"} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32> loc("model.layers.0.mlp")
    %3 = "nn.einsum"(%2, %c) {spec = "bh,kh->bk"} : (tensor<4x8xf32>, tensor<8x8xf32>) -> tensor<4x8xf32> loc("model.layers.1.mlp")
    %4 = "nn.tanh"(%3) : (tensor<4x8xf32>) -> tensor<4x8xf32> loc("model.layers.1.mlp")
    %5 = "nn.reduce"(%4) {kind = "sum", dims = array<i64: 0, 1>} : (tensor<4x8xf32>) -> tensor<f32>
    return %5 : tensor<f32>
  }
}
