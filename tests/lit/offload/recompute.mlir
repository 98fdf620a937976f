// RUN: athanor opt --passes autodiff,recompute,offload %s | FileCheck %s

// The tanh of layer 0 is computed again and does not go; what layer 1 reads of it, and layer 1's own tanh, do.
// CHECK: done = {{{.*}}values = 2 : i64}
// CHECK-LABEL: func.func @micro(
// CHECK: %[[H:.*]] = "nn.tanh"
// CHECK-NEXT: %[[X:.*]] = "nn.einsum"(%[[H]], %arg2)
// CHECK-NEXT: %[[XH:.*]] = "nn.to_host"(%[[X]])
// CHECK: %[[Y:.*]] = "nn.tanh"
// CHECK-NEXT: %[[YH:.*]] = "nn.to_host"(%[[Y]])
// CHECK: "nn.from_host"(%[[YH]])
// CHECK: "nn.from_host"(%[[XH]])
// CHECK: %[[P2:.*]] = "nn.einsum"(%arg0, %arg1)
// CHECK-NEXT: %[[H2:.*]] = "nn.tanh"(%[[P2]])
// CHECK-NOT: nn.from_host
// CHECK: return
module attributes {nn.level = "model", nn.run = {
    offload = {values = [{layers = ["model.layers.0", "model.layers.1"], prefetch = 0 : i64}]},
    recompute = {layers = ["model.layers.0"]}}} {
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
