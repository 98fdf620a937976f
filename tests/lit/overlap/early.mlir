// RUN: athanor opt --passes "overlap{flops=1,bytes=1000}" %s | FileCheck %s

// A weight that is gathered where it is read, in a narrower form, is gathered before the product that stands before: its work is
// enough. The message of that product's result waits for it and stays.
// CHECK-LABEL: func.func @micro(
// CHECK: %[[NARROW:.*]] = "nn.cast"(%arg2)
// CHECK-NEXT: %[[WHOLE:.*]] = "nn.all_gather"(%[[NARROW]]) {axes = "dp"
// CHECK-NEXT: %[[A:.*]] = "nn.einsum"(%arg0, %arg1)
// CHECK-NEXT: %[[SUM:.*]] = "nn.all_reduce"(%[[A]]) {axes = "tp"
// CHECK-NEXT: "nn.einsum"(%[[SUM]], %[[WHOLE]])
module attributes {nn.mesh = [["dp", 2], ["tp", 2]]} {
  func.func @micro(
      %x: tensor<8x8xbf16> {nn.name = "x", nn.cut = [[], ["tp"]], nn.role = "input"},
      %v: tensor<8x8xbf16> {nn.name = "v", nn.cut = [[], ["tp"]], nn.role = "input"},
      %w: tensor<4x8xf32> {nn.name = "w", nn.cut = [["dp"], []], nn.role = "input"})
      -> (tensor<8x8xbf16> {nn.name = "y"}) {
    %0 = "nn.einsum"(%x, %v) {spec = "bh,kh->bk"} : (tensor<8x8xbf16>, tensor<8x8xbf16>) -> tensor<8x8xbf16>
    %1 = "nn.all_reduce"(%0) {axes = "tp", kind = "sum", ranks = 2 : i64} : (tensor<8x8xbf16>) -> tensor<8x8xbf16>
    %2 = "nn.cast"(%w) : (tensor<4x8xf32>) -> tensor<4x8xbf16>
    %3 = "nn.all_gather"(%2) {axes = "dp", dim = 0 : i64, ranks = 2 : i64} : (tensor<4x8xbf16>) -> tensor<8x8xbf16>
    %4 = "nn.einsum"(%1, %3) {spec = "bh,kh->bk"} : (tensor<8x8xbf16>, tensor<8x8xbf16>) -> tensor<8x8xbf16>
    return %4 : tensor<8x8xbf16>
  }
}
