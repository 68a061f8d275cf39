// Checks a SARIF log, from the standard input, against the OASIS schema of SARIF 2.1.0. The schema is a constant of a Go module that
// is pinned by its checksum, and is read from that module's source: go run . SCHEMA.GO < LOG
package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"strconv"

	// Names the module whose source has the schema.
	_ "github.com/owenrumney/go-sarif/v3/pkg/report/v210/sarif"
	"github.com/xeipuuv/gojsonschema"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("usage: go run . SCHEMA.GO < LOG")
	}
	schema, err := constant(os.Args[1], "schema")
	if err != nil {
		return err
	}
	log, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	result, err := gojsonschema.Validate(gojsonschema.NewStringLoader(schema), gojsonschema.NewBytesLoader(log))
	if err != nil {
		return err
	}
	for _, fault := range result.Errors() {
		fmt.Fprintln(os.Stderr, fault)
	}
	if !result.Valid() {
		return fmt.Errorf("this is no SARIF 2.1.0")
	}
	return nil
}

// The text of a string constant of a Go file.
func constant(file, name string) (string, error) {
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		return "", err
	}
	text := ""
	ast.Inspect(parsed, func(node ast.Node) bool {
		if spec, ok := node.(*ast.ValueSpec); ok && len(spec.Values) == 1 && spec.Names[0].Name == name {
			if literal, ok := spec.Values[0].(*ast.BasicLit); ok {
				text, err = strconv.Unquote(literal.Value)
			}
		}
		return true
	})
	if text == "" && err == nil {
		err = fmt.Errorf("%s has no constant %q", file, name)
	}
	return text, err
}
