// RUN: athanor opt --passes simplify %s | FileCheck %s

// −(−x) is x, and (−y) + x is x − y; 1/(1/x) rounds twice and stays.
// CHECK-NOT: nn.neg
// CHECK-DAG: %[[SUB:.*]] = "nn.sub"(%arg0, %arg1)
// CHECK-DAG: %[[R:.*]] = "nn.recip"(%arg0)
// CHECK-DAG: %[[RR:.*]] = "nn.recip"(%[[R]])
// CHECK-NOT: nn.neg
// CHECK: return %arg0, %[[SUB]], %[[RR]]
func.func @f(%x: tensor<4xf32>, %y: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>, tensor<4xf32>) {
  %0 = "nn.neg"(%x) : (tensor<4xf32>) -> tensor<4xf32>
  %1 = "nn.neg"(%0) : (tensor<4xf32>) -> tensor<4xf32>
  %2 = "nn.neg"(%y) : (tensor<4xf32>) -> tensor<4xf32>
  %3 = "nn.add"(%2, %x) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  %4 = "nn.recip"(%x) : (tensor<4xf32>) -> tensor<4xf32>
  %5 = "nn.recip"(%4) : (tensor<4xf32>) -> tensor<4xf32>
  return %1, %3, %5 : tensor<4xf32>, tensor<4xf32>, tensor<4xf32>
}
