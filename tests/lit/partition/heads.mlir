// RUN: athanor opt --passes partition %s | FileCheck %s

// Heads of queries and of keys are cut together, through the reshape that splits them off; each rank has the query heads
// that read its key heads.
// CHECK-LABEL: func.func @forward(
// CHECK: "nn.reshape"(%{{.*}}) : (tensor<1x3x8xf32>) -> tensor<1x3x2x4xf32>
// CHECK: "nn.reshape"(%{{.*}}) : (tensor<1x3x4xf32>) -> tensor<1x3x1x4xf32>
// CHECK: "nn.attention"(%{{.*}}) {{.*}} : (tensor<1x3x2x4xf32>, tensor<1x3x1x4xf32>, tensor<1x3x1x4xf32>) -> (tensor<1x3x2x4xf32>, tensor<1x2x3xf32>)
// CHECK: "nn.all_reduce"(%{{.*}}) {axes = "tp", kind = "sum", ranks = 2 : i64} : (tensor<1x3x5xf32>) -> tensor<1x3x5xf32>
module attributes {nn.mesh = [["tp", 2]]} {
  func.func @forward(
      %x: tensor<1x3x5xf32> {nn.name = "x", nn.role = "input"},
      %wq: tensor<16x5xf32> {nn.name = "q", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true},
      %wk: tensor<8x5xf32> {nn.name = "k", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true},
      %wo: tensor<5x16xf32> {nn.name = "o", nn.role = "weight", nn.init = {normal = 0.02 : f64}, nn.decay = true})
      -> (tensor<1x3x5xf32> {nn.name = "y"}) {
    %0 = "nn.einsum"(%x, %wq) {spec = "bsh,kh->bsk"} : (tensor<1x3x5xf32>, tensor<16x5xf32>) -> tensor<1x3x16xf32>
    %1 = "nn.einsum"(%x, %wk) {spec = "bsh,kh->bsk"} : (tensor<1x3x5xf32>, tensor<8x5xf32>) -> tensor<1x3x8xf32>
    %2 = "nn.reshape"(%0) : (tensor<1x3x16xf32>) -> tensor<1x3x4x4xf32>
    %3 = "nn.reshape"(%1) : (tensor<1x3x8xf32>) -> tensor<1x3x2x4xf32>
    %4:2 = "nn.attention"(%2, %3, %3) {scale = 0.5 : f64, causal = true, alibi = false} : (tensor<1x3x4x4xf32>, tensor<1x3x2x4xf32>, tensor<1x3x2x4xf32>) -> (tensor<1x3x4x4xf32>, tensor<1x4x3xf32>)
    %5 = "nn.reshape"(%4#0) : (tensor<1x3x4x4xf32>) -> tensor<1x3x16xf32>
    %6 = "nn.einsum"(%5, %wo) {spec = "bsk,hk->bsh"} : (tensor<1x3x16xf32>, tensor<5x16xf32>) -> tensor<1x3x5xf32>
    return %6 : tensor<1x3x5xf32>
  }
}
