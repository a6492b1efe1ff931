package admission

import "github.com/pebbledash/pebbledash/storage/route"

// maxLimit is the most seats that anything has.
const maxLimit = 1 << 20

// ParseResourceLimits reads what bounds single resources: resource#n,
// group/resource#n.
func ParseResourceLimits(text string) (route.Numbers, error) {
	return route.ParseNumbers(text, 1, maxLimit)
}
