// Command kine is k3s' storage shim, which keeps Kubernetes' objects in SQLite. It is
// kine as it is: this module only pins its version.
package main

import (
	"os"

	"github.com/k3s-io/kine/pkg/app"
	"github.com/sirupsen/logrus"
)

func main() {
	if err := app.New().Run(os.Args); err != nil {
		logrus.Fatal(err)
	}
}
