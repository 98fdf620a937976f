// RUN: athanor opt --passes autodiff,optimizer,offload %s | FileCheck %s

// A step brings the two moments of its weight and sends them back before the next weight's come.
// CHECK: done = {bytes = 0 : i64, moment_bytes = 1536 : i64, moments = 6 : i64, values = 0 : i64}
// CHECK-LABEL: func.func @update(
// CHECK: %[[M:.*]]: tensor<8x8xf32> {nn.memory = "host", nn.name = "adam_m.a", nn.role = "moment"}
// CHECK: %[[V:.*]]: tensor<8x8xf32> {nn.memory = "host", nn.name = "adam_v.a", nn.role = "moment"}
// CHECK: %[[MB:.*]] = "nn.from_host"(%[[M]])
// CHECK-NEXT: %[[VB:.*]] = "nn.from_host"(%[[V]])
// CHECK-NEXT: %[[NEW:.*]]:3 = "nn.adam_w"({{.*}}, {{.*}}, %[[MB]], %[[VB]],
// CHECK-NEXT: %[[MH:.*]] = "nn.to_host"(%[[NEW]]#1)
// CHECK-NEXT: %[[VH:.*]] = "nn.to_host"(%[[NEW]]#2)
// CHECK-NEXT: "nn.from_host"
// CHECK-NEXT: "nn.from_host"
// CHECK-NEXT: "nn.adam_w"
// CHECK: return %[[NEW]]#0, %[[MH]], %[[VH]],
module attributes {nn.level = "model", nn.run = {offload = {moments = true}}} {
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
