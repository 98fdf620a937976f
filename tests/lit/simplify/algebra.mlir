// RUN: athanor opt --passes simplify %s | FileCheck %s

// Neutral elements vanish, x + (-y) is x - y, x·sigmoid(x) is silu(x), x·x is x².
// CHECK-LABEL: func.func @algebra(
// CHECK-NOT: nn.constant
// CHECK: %0 = "nn.sub"(%arg0, %arg1)
// CHECK-NEXT: %1 = "nn.silu"(%arg0)
// CHECK-NEXT: %2 = "nn.square"(%arg1)
// CHECK-NEXT: return %0, %1, %2
func.func @algebra(%x: tensor<4xf32>, %y: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>, tensor<4xf32>) {
  %zero = "nn.constant"() {value = 0.0 : f64} : () -> tensor<4xf32>
  %one = "nn.constant"() {value = 1.0 : f64} : () -> tensor<4xf32>
  %0 = "nn.add"(%x, %zero) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  %1 = "nn.mul"(%0, %one) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  %2 = "nn.neg"(%y) : (tensor<4xf32>) -> tensor<4xf32>
  %3 = "nn.add"(%1, %2) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  %4 = "nn.sigmoid"(%x) : (tensor<4xf32>) -> tensor<4xf32>
  %5 = "nn.mul"(%4, %x) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  %6 = "nn.mul"(%y, %y) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  return %3, %5, %6 : tensor<4xf32>, tensor<4xf32>, tensor<4xf32>
}
