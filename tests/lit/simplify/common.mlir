// RUN: athanor opt --passes simplify %s | FileCheck %s

// Equal subexpressions are computed once, sums in either order among them, at the location of the first.
// CHECK: %0 = "nn.exp"(%arg0) : (tensor<4xf32>) -> tensor<4xf32> loc("first")
// CHECK-NEXT: %1 = "nn.add"
// CHECK-NEXT: return %1, %1
func.func @f(%x: tensor<4xf32>, %y: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>) {
  %0 = "nn.exp"(%x) : (tensor<4xf32>) -> tensor<4xf32> loc("first")
  %1 = "nn.exp"(%x) : (tensor<4xf32>) -> tensor<4xf32> loc("second")
  %2 = "nn.add"(%0, %y) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  %3 = "nn.add"(%y, %1) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  return %2, %3 : tensor<4xf32>, tensor<4xf32>
}
