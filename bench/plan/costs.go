package plan

import (
	"errors"

	"github.com/polygate/polygate/bench/result"
)

// Costs are what things cost, each with where it is known from.
type Costs struct {
	Source string          `yaml:"source"` // machine, version and date in words
	Costs  map[string]Cost `yaml:"costs"`  // by name, such as request.http1 or memory.registered; see costs.yaml for all
}

// Cost is one of them.
type Cost struct {
	Value    float64 `yaml:"value"`
	Unit     string  `yaml:"unit"`
	Measured bool    `yaml:"measured"` // false: it follows from the code, or is estimated from what was measured
	From     string  `yaml:"from"`     // how it is known
}

// DefaultCosts returns the set that comes with the program.
func DefaultCosts() (*Costs, error) { return nil, errors.New("not built yet") }

// CostsOf returns the default costs with those that a report measured in their place. It says which it took.
func CostsOf(r *result.Report) (*Costs, []string, error) { return nil, nil, errors.New("not built yet") }
