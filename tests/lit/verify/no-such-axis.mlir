// RUN: not athanor opt --passes '' %s 2>&1 | FileCheck %s

// CHECK: M0001
// CHECK: over axis "tp", which the mesh does not have
module attributes {nn.mesh = [["dp", 2]]} {
  func.func @f(%x: tensor<4xf32>) -> tensor<4xf32> {
    %0 = "nn.all_reduce"(%x) {axes = "tp", kind = "sum", ranks = 2 : i64} : (tensor<4xf32>) -> tensor<4xf32>
    return %0 : tensor<4xf32>
  }
}
