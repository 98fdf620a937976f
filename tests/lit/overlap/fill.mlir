// RUN: athanor opt --passes "overlap{flops=1,bytes=1000}" %s | FileCheck %s
// RUN: athanor opt --passes "overlap{flops=8,bytes=1000}" %s | FileCheck %s --check-prefix=ALL

// Behind the sum of a layer stand two products of it that need nothing of the sum. The first is enough for what is sent; where work
// takes an eighth of the time, both go. What is of another layer stays.
// CHECK-LABEL: func.func @micro(
// CHECK: %[[SUM:.*]] = "nn.all_reduce"(%arg0)
// CHECK-NEXT: "nn.einsum"(%arg1, %arg4)
// CHECK-NEXT: "nn.tanh"(%[[SUM]])
// CHECK-NEXT: "nn.einsum"(%arg2, %arg4)
// CHECK-NEXT: "nn.einsum"(%arg3, %arg4)
// ALL-LABEL: func.func @micro(
// ALL: %[[SUM:.*]] = "nn.all_reduce"(%arg0)
// ALL-NEXT: "nn.einsum"(%arg1, %arg4)
// ALL-NEXT: "nn.einsum"(%arg2, %arg4)
// ALL-NEXT: "nn.tanh"(%[[SUM]])
// ALL-NEXT: "nn.einsum"(%arg3, %arg4)
module attributes {nn.mesh = [["tp", 2]]} {
  func.func @micro(
      %x: tensor<8x8xf32> {nn.name = "x", nn.partial = ["tp"], nn.role = "input"},
      %a: tensor<8x8xf32> {nn.name = "a", nn.role = "input"}, %b: tensor<8x8xf32> {nn.name = "b", nn.role = "input"},
      %c: tensor<8x8xf32> {nn.name = "c", nn.role = "input"}, %w: tensor<8x8xf32> {nn.name = "w", nn.role = "input"})
      -> (tensor<8x8xf32> {nn.name = "y"}, tensor<8x8xf32> {nn.name = "u"}, tensor<8x8xf32> {nn.name = "v"},
          tensor<8x8xf32> {nn.name = "z"}) {
    %0 = "nn.all_reduce"(%x) {axes = "tp", kind = "sum", ranks = 2 : i64} : (tensor<8x8xf32>) -> tensor<8x8xf32> loc("m.layers.0.mlp")
    %1 = "nn.tanh"(%0) : (tensor<8x8xf32>) -> tensor<8x8xf32> loc("m.layers.0.mlp")
    %2 = "nn.einsum"(%a, %w) {spec = "bh,kh->bk"} : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32> loc("m.layers.0.shared")
    %3 = "nn.einsum"(%b, %w) {spec = "bh,kh->bk"} : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32> loc("m.layers.0.shared")
    %4 = "nn.einsum"(%c, %w) {spec = "bh,kh->bk"} : (tensor<8x8xf32>, tensor<8x8xf32>) -> tensor<8x8xf32> loc("m.layers.1.mlp")
    return %1, %2, %3, %4 : tensor<8x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>, tensor<8x8xf32>
  }
}
